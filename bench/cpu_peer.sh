#!/usr/bin/env bash
# Compares Troika with PyTorch on a CPU: 5.26 M parameters, batch 8 × 256, bf16, two threads, on the same two cores one
# after the other. Usage: bench/cpu_peer.sh TROIKA [STEPS], where TROIKA is the command of an unpacked archive and
# python3 has torch and transformers. PEER=eager leaves out torch.compile, PEER=none PyTorch.
set -uo pipefail
troika=$1
steps=${2:-80}
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
pin="taskset -c 0,1"
ours() {
  rm -rf "$out/run"
  /usr/bin/env bash -c "time $pin $troika train --model tiny --data synthetic --devices cpu:1 --train-batch-size 8 \
    --sequence-length 256 --dtype bf16 --max-steps $steps --save-strategy no --logging-steps 1000 --output $out/run $*" 2>&1 | grep -v incubator
  python3 - "$out/run/metrics.jsonl" <<'PY'
import json, sys, statistics
rows = [json.loads(line) for line in open(sys.argv[1])]
rates = [row["tokens_per_second"] for row in rows]
print(json.dumps(dict(system="troika", first_step_s=rows[0]["seconds"], tokens_per_s_median_last_half=statistics.median(rates[len(rates) // 2:]),
                      best=max(rates), losses=[row["loss"] for row in rows[:3]])))
PY
}
grep -m1 'model name' /proc/cpuinfo
echo "start to the end of the first step, model saved:"
steps=1 ours | grep -E 'real|first_step'
ours
[ "${PEER:-compile}" = none ] || $pin python3 "$here/peers/pytorch_train.py" --model tiny --batch 8 --seq 256 --device cpu --threads 2 --steps 16
[ "${PEER:-compile}" != compile ] || $pin python3 "$here/peers/pytorch_train.py" --model tiny --batch 8 --seq 256 --device cpu --threads 2 --steps 24 --compile
ours
