"""Scaling over cards, and certificates of layouts, for bench/gpu/run."""
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

PEER = Path(__file__).resolve().parent.parent / "peers/pytorch_fsdp2.py"
SEQUENCE = 2048
PEER_STEPS = 14

# name: Troika's preset, the peer's name, most sequences of a microbatch, steps, seconds that a run may take, Troika's
# further options, the peer's tries until one fits the card
MODELS = {
    "1.3b": ("deepseek-coder-1.3b", "deepseek-coder-1.3b", 8, 20, 150, "", (1,)),
    # One card holds no more than four sequences of 7 B at once.
    "7b": ("deepseek-llm-7b", "deepseek-7b", 4, 10, 300, "--optimizer-states bf16", (2,)),
}
KINDS = {
    "each": "every other card alone: ranks that wait for each other are as fast as the slowest",
    "dp": "data parallel with ZeRO-1 and ZeRO-3",
    "fsdp2": "PyTorch FSDP2 + compile, a process a card; zero1 keeps gathered weights after the forward pass",
    "tp": "tensor parallel, 2 and 3, 4 microbatches, in turns two by two",
    "pp": "pipeline parallel, 2 and 3, with 4 and 8 microbatches",
    "hybrid": "0,1:dp2 | 2 and 0,1:tp2 | 2; of 4 cards and more, data parallel by tensor 2 and by pipeline 2",
    "forced": "ZeRO-3 with Troika's own collectives and with NCCL's, of which dp takes what was faster when tried",
    "staged": "dp again, data through host memory, as between cards without peer access: Troika's own collectives, and NCCL's",
}
MICROBATCHES = "--gradient-accumulation-steps 4"
# NVLink multicast stays off in every program that loads NCCL.
NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
# NCCL does not know of Troika's transport, so each needs a word of its own.
STAGED = {
    "own": {"JAVA_TOOL_OPTIONS": "-Dtroika.cuda.transport=staged -Dtroika.cuda.collectives=own"},
    "nccl": {"JAVA_TOOL_OPTIONS": "-Dtroika.cuda.transport=staged -Dtroika.cuda.collectives=nccl", "NCCL_P2P_DISABLE": "1"},
}

# Whose collectives, whatever was faster when tried.
FORCED = {by: {"JAVA_TOOL_OPTIONS": f"-Dtroika.cuda.collectives={by}"} for by in ("own", "nccl")}

CERTIFICATES = {
    2: ("dp2 zero0", "dp2 zero1", "dp2 zero2", "dp2 zero3", "tp2", "tp2 sequence-parallel", "pp2 acc4",
        "pp2 zero-bubble acc4", "pp2 interleaved acc4"),
    3: ("dp3 zero1", "dp3 zero3", "dp3 shares=1,1,0.6", "tp3", "tp3 sequence-parallel", "pp3 acc4", "0,1:dp2 | 2 acc2",
        "0,1:tp2 | 2 acc4"),
    4: ("dp4 zero1", "dp4 zero3", "tp4", "pp4 acc4", "dp2 tp2", "dp2 pp2 zero3 acc2", "tp2 pp2 acc4",
        "0,1:dp2 | 2,3:tp2 acc2"),
}


def cards_of(text):
    """The ordinals that --devices names, a rank each: cuda:0,0,1 and cuda:0-2. Throws ValueError."""
    if not re.fullmatch(r"cuda:\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"--devices {text} names no cards: write cuda:0-3, cuda:0,1,2 or, for ranks that share one, cuda:0,0")
    cards = []
    for part in text.removeprefix("cuda:").split(","):
        first, _, last = part.partition("-")
        cards += range(int(first), int(last or first) + 1)
    return cards


def count():
    """The cards that nvidia-smi lists."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return 0
    return len(listed.stdout.split()) if listed.returncode == 0 else 0


def ranks_of(devices, cards):
    """A card for each rank. Throws ValueError."""
    if devices:
        ranks = cards_of(devices)
        if cards and cards > len(ranks):
            raise ValueError(f"--cards {cards} is more than the {len(ranks)} of --devices {devices}")
        ranks = ranks[:cards or len(ranks)]
    else:
        ranks = list(range(cards or count()))
    if not ranks:
        raise ValueError("nvidia-smi lists no card: say --cards N or --devices cuda:...")
    if len(ranks) < 2:
        raise ValueError("scaling and certificates need two ranks: --devices cuda:0,0 lets two share a card")
    return ranks


def layouts(n, kinds):
    """What runs on n ranks, in this order: (kind, name, ranks, Troika's options, environment)."""
    rows = [("one", "one card", range(1), "", {})]
    if "each" in kinds:
        rows += [("each", f"rank {rank}'s card alone", range(rank, rank + 1), "", {}) for rank in range(1, n)]
    # Three cards are a case of their own.
    counts = sorted({n, 3} if n > 3 else {n}, reverse=True)
    small = [size for size in (2, 3) if size <= n]
    for size in counts:
        rows += [
            ("dp", f"dp {size}, ZeRO-1", range(size), "--zero-stage 1", {}),
            ("dp", f"dp {size}, ZeRO-3", range(size), "--zero-stage 3", {}),
            ("fsdp2", f"FSDP2, {size}", range(size), "--zero 3", {}),
        ]
    rows += [("tp", f"tp {size}", range(size), f"--tensor-parallel {size} {MICROBATCHES}", {}) for size in small]
    for size in small:
        rows += [
            ("pp", f"pp {size}, {schedule}, {count} microbatches", range(size),
             f"--pipeline-parallel {size} --pipeline-schedule {schedule} --gradient-accumulation-steps {count}", {})
            for schedule, count in (("1f1b", 4), ("1f1b", 8), ("zero-bubble", 8))]
    if n >= 3:
        rows += [
            ("hybrid", layout, range(3), f"--layout '{layout}' --pipeline-schedule zero-bubble {MICROBATCHES}", {})
            for layout in ("0,1:dp2 | 2", "0,1:tp2 | 2")]
    if n >= 4 and n % 2 == 0:
        rows += [
            ("hybrid", f"dp {n // 2} × tp 2", range(n), f"--tensor-parallel 2 {MICROBATCHES}", {}),
            ("hybrid", f"dp {n // 2} × pp 2", range(n), f"--pipeline-parallel 2 --pipeline-schedule zero-bubble {MICROBATCHES}", {}),
        ]
    for size in counts:
        rows += [("forced", f"dp {size}, ZeRO-3, {by}", range(size), "--zero-stage 3", environment) for by, environment in FORCED.items()]
        for stage in (1, 3):
            rows += [
                ("staged", f"dp {size}, ZeRO-{stage}, staged {by}", range(size), f"--zero-stage {stage}", environment)
                for by, environment in STAGED.items()]
    rows += [("fsdp2", f"FSDP2 zero1, {size}", range(size), "--zero 1", {}) for size in counts]
    return [row for row in rows if row[0] in ("one", *kinds)]


class Scaling:
    def __init__(self, bench, ranks):
        self.bench = bench
        self.options = bench.options
        self.ranks = ranks
        self.rows = []
        self.missing = []
        # Of a model: how many parts the peer's batch must be cut into to fit.
        self.parts = {}

    def devices(self, members):
        return "cuda:" + ",".join(str(self.ranks[rank]) for rank in members)

    def run(self):
        for model in self.options.models:
            for kind, name, members, further, environment in layouts(len(self.ranks), self.options.layouts):
                if kind != "one" and not re.search(self.options.rows, name):
                    continue
                size = len(members)
                cards = sorted({self.ranks[rank] for rank in members})
                if "collectives=nccl" in environment.get("JAVA_TOOL_OPTIONS", "") and len(cards) < size:
                    print(f"{model} {name}: left out, since ranks share a card and NCCL takes one a rank", flush=True)
                    continue
                if kind == "fsdp2" and len(cards) < size:
                    print(f"{model} {name}: left out, since it takes a card a process", flush=True)
                    continue
                with self.bench.memory(cards) as memory:
                    if kind == "fsdp2":
                        row = self.peer(model, name, cards, further)
                    else:
                        row = self.troika(model, name, members, len(cards), further, environment)
                if row is None:
                    self.missing.append(f"{model} {name}")
                    continue
                row = dict(case="scaling", model=model, kind=kind, layout=name, ranks=size, cards=len(cards),
                           sequence=SEQUENCE, peak_gib=memory.gib(), **row)
                self.rows.append(row)
                self.bench.record(row)

    def troika(self, model, name, members, cards, further, environment):
        preset, _, micro, steps, limit, options, _ = MODELS[model]
        batch = self.options.batch * cards
        words = ["--devices", self.devices(members), *shlex.split(options), *shlex.split(further)]
        if "--gradient-accumulation-steps" not in further:
            words += ["--per-device-train-batch-size", micro]
        row, output = self.bench.train(
            f"{model} {name}", preset, ["synthetic"], batch, SEQUENCE, self.options.steps or steps,
            ["--deterministic", "off", *words], {**NO_MULTICAST, **environment}, limit, profile=True)
        if row is None:
            return None
        plan = re.search(r"\btotal +([\d.]+)", output)
        says = re.search(r"Collectives between.*", output)
        expected = re.search(r"expected of this machine: ([\d.]+) ms", output)
        timed = re.search(r"^Steps \d.*?^Timelines:", output, re.MULTILINE | re.DOTALL)
        if timed:
            print(timed[0].rpartition("\n")[0], flush=True)
        return dict(batch=batch, plan_gib=round(float(plan[1]) / 1024, 2) if plan else None,
                    expected_ms=float(expected[1]) if expected else None,
                    collectives=says[0] if says else None, **row)

    def peer(self, model, name, cards, further):
        _, peer, _, _, limit, _, tries = MODELS[model]
        for parts in [self.parts[model]] if model in self.parts else tries:
            batch = -(-self.options.batch // parts)
            output = self.bench.call(
                f"{model} {name}" + (f", {parts} × {batch}" if parts > 1 else ""),
                ["torchrun", "--standalone", "--nproc-per-node", len(cards), PEER, "--model", peer, "--batch", batch,
                 "--accumulate", parts, "--seq", SEQUENCE, "--steps", PEER_STEPS, *shlex.split(further),
                 *shlex.split(self.options.peers)],
                {**NO_MULTICAST, "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))}, limit=limit)
            found = [line for line in (output or "").splitlines() if line.startswith('{"peer"')]
            if found:
                self.parts[model] = parts
                result = json.loads(found[-1])
                return dict(batch=result["tokens"] // SEQUENCE, tokens_per_s=result["tokens_per_s"], step_s=result["step_s"],
                            steps=PEER_STEPS - 4, allocated_gib=result["peak_gib"], parts=parts)
        return None

    def kill(self):
        """Kills a run over all cards by signal 9; says what stays on the cards, and whether the resumed run gives the losses
        of one that was not killed."""
        # A step takes a few milliseconds, and the metrics are looked at five times a second.
        steps, save, at = 2000, 700, 1000
        folder = Path(tempfile.mkdtemp(prefix="troika-kill-"))

        def train(name, *words, done=None):
            metrics = folder / name / "metrics.jsonl"
            self.bench.call(
                f"kill: {name} {shlex.join(words)}".strip(),
                [self.options.archive / "bin/troika", "train", "--model", "tiny", "--data", "synthetic", "--tokenizer", "byte",
                 "--devices", self.devices(range(len(self.ranks))), "--zero-stage", 3, "--train-batch-size", 24, "--sequence-length", 256,
                 "--max-steps", steps, "--save-steps", save, "--output", folder / name, *words],
                NO_MULTICAST, limit=120, done=done and (lambda: done(metrics)))
            return {row["step"]: row["loss"] for row in map(json.loads, open(metrics))} if metrics.exists() else {}

        def used():
            return [] if self.options.dry_run else self.bench.memory(sorted(set(self.ranks))).used()

        try:
            whole = train("whole")
            before = used()
            train("killed", done=lambda metrics: metrics.exists() and metrics.read_bytes().count(b"\n") >= at)
            after = used()
            resumed = train("killed", "--resume")
            same = len(whole) == steps and resumed == whole
            print(f"kill: MiB in use on the cards before {before} and after {after}; losses of {len(resumed)} steps, resumed behind "
                  f"step {at // save * save}: {'bitwise those of the run that was not killed' if same else 'NOT THE SAME'}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def table(self):
        print(table(self.rows, self.missing), flush=True)

    def certificates(self):
        """Each number of ranks with Troika's own collectives, then with NCCL's, then the most with data through the host."""
        sizes = [size for size in CERTIFICATES if size <= len(self.ranks)]
        apart = len(set(self.ranks)) == len(self.ranks)
        runs = [(f"{size} ranks, deterministic", size, "on", {}) for size in sizes]
        runs += [(f"{size} ranks, NCCL", size, "off", FORCED["nccl"]) for size in sizes if apart]
        runs += [(f"{sizes[-1]} ranks, staged", sizes[-1], "on", STAGED["own"])]
        for name, size, deterministic, environment in runs:
            output = self.bench.call(
                f"certificate of {name}",
                [self.options.archive / "bin/troika", "certify", "--model", "tiny", "--data", "synthetic", "--tokenizer", "byte",
                 "--dtype", "fp32", "--devices", self.devices(range(size)), "--train-batch-size", 24, "--sequence-length", 256,
                 "--max-steps", 10, "--deterministic", deterministic, "--tolerance", "1e-4",
                 "--layout", "dp1", *CERTIFICATES[size]],
                {**NO_MULTICAST, "TROIKA_HEAP": os.environ.get("TROIKA_HEAP", "8g"), **environment}, limit=240)
            # Of a failed one call() has shown the end.
            if output:
                losses = re.findall(r"^largest .*$", output, re.MULTILINE)
                print("\nlosses: " + "".join(losses[:1]) + "\n" + output[output.rfind("final weights"):], flush=True)


def table(rows, missing):
    """Markdown; efficiency is of as many cards as one, and the peer the faster FSDP2 on as many cards."""
    one = {row["model"]: row["tokens_per_s"] for row in rows if row["kind"] == "one"}
    peers = {}
    for row in rows:
        if row["kind"] == "fsdp2":
            key = row["model"], row["cards"]
            peers[key] = max(peers.get(key, 0), row["tokens_per_s"])
    lines = [
        "",
        "| model | layout | ranks | cards | batch | tokens/s, median of steps | efficiency | of FSDP2 | ms a step | expected, ms | error | GiB, fullest card | GiB, planned for the largest rank |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ours = row["kind"] != "fsdp2"
        speed, cards = row["tokens_per_s"], row["cards"]
        efficiency = f"{100 * speed / (cards * one[row['model']]):.1f} %" if ours and row["model"] in one else ""
        peer = peers.get((row["model"], cards))
        ratio = f"{speed / peer:.2f}" if ours and peer else ""
        peak, plan = ("" if row.get(key) is None else f"{row[key]:.1f}" for key in ("peak_gib", "plan_gib"))
        took, expected = 1e3 * row["step_s"], row.get("expected_ms")
        foretold = (f"{expected:.1f}", f"{100 * (expected / took - 1):+.1f} %") if expected else ("", "")
        layout = row["layout"].replace("|", "\\|")
        if row.get("parts", 1) > 1:
            layout += f", {row['parts']} microbatches"
        lines.append(f"| {row['model']} | {layout} | {row['ranks']} | {cards} | {row['batch']} × {row['sequence']} | "
                     f"{speed:,.0f} of {row['steps']} | {efficiency} | {ratio} | {took:.1f} | {foretold[0]} | {foretold[1]} | "
                     f"{peak} | {plan} |")
    if missing:
        lines.append("\nWithout a figure (failed or not begun, see above): " + "; ".join(missing) + ".")
    return "\n".join(lines)
