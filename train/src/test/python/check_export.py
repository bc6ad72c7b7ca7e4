#!/usr/bin/env python3
"""Loads a model that Troika saved with transformers and compares logits with those that ExportedLogits wrote:
check_export.py MODEL LOGITS.safetensors"""
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
expected = load_file(sys.argv[2])
with torch.no_grad():
    logits = model(input_ids=expected["ids"].long()).logits
difference = (logits - expected["logits"]).abs().max().item()
text = "public static void main(String[] args) { // é ✓ \U0001f600\n"
same = tokenizer(text, add_special_tokens=False)["input_ids"] == list(text.encode())
print(f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters: largest difference of logits {difference:.2e} "
      f"(largest logit {logits.abs().max().item():.2f}); byte tokenizer's ids equal: {same}")
prompt = torch.tensor([list(b"    /**\n     * Returns the ")])
print(repr(bytes(t for t in model.generate(prompt, max_new_tokens=60, do_sample=False)[0].tolist() if t < 256).decode(errors="replace")))
sys.exit(0 if difference < 1e-3 and same else 1)
