#!/usr/bin/env python3
"""Draws the loss of a run as SVG: bench/loss_curve.py RUN/metrics.jsonl docs/loss.svg"""
import json, sys

rows = [json.loads(line) for line in open(sys.argv[1])]
width, height, left, bottom = 640, 320, 56, 40
steps, losses = [r["step"] for r in rows], [r["loss"] for r in rows]
low, high = 0.0, max(losses)
x = lambda s: left + (width - left - 16) * s / steps[-1]
y = lambda v: 16 + (height - 16 - bottom) * (high - v) / (high - low)
parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
         f'<rect width="{width}" height="{height}" fill="white"/>']
for v in range(int(high) + 1):
    parts.append(f'<line x1="{left}" x2="{width - 16}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/><text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v}</text>')
for s in range(0, steps[-1] + 1, max(1, steps[-1] // 4)):
    parts.append(f'<text x="{x(s):.1f}" y="{height - bottom + 18}" text-anchor="middle">{s}</text>')
parts.append('<polyline fill="none" stroke="#1f6fb4" stroke-width="1.5" points="' + " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, losses)) + '"/>')
held = [(r["step"], r["eval_loss"]) for r in rows if "eval_loss" in r]
for s, v in held:
    parts.append(f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="4" fill="#c0392b"/><text x="{x(s) - 8:.1f}" y="{y(v) - 8:.1f}" text-anchor="end" fill="#c0392b">held out: {v:.3f}</text>')
parts.append(f'<text x="{(width + left) / 2}" y="{height - 6}" text-anchor="middle">step</text><text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">nats a byte</text></svg>')
open(sys.argv[2], "w").write("\n".join(parts) + "\n")
