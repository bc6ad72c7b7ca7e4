#!/usr/bin/env python3
"""Makes the fixtures of TransformersParityTest with PyTorch and transformers: tiny random Llama models, what they answer, all
their gradients, and ten AdamW steps. Run it where both are installed: make_fixtures.py FOLDER"""
import json, os, sys, torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, SEQUENCE, STEPS = 3, 20, 10
LEARNING_RATE, WEIGHT_DECAY, CLIP = 3e-3, 0.1, 1.0

CASES = {
    "plain": dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=2),
    "gqa": dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=32),
    "tied": dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=32, tie_word_embeddings=True),
    "head64": dict(hidden_size=40, num_attention_heads=2, num_key_value_heads=1, head_dim=64, rope_theta=500000.0),
    "head128": dict(hidden_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=128, num_hidden_layers=1),
    "scaled": dict(hidden_size=32, num_attention_heads=1, num_key_value_heads=1, head_dim=32, rope_theta=100000.0, factor=4.0),
    "sharded": dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=32),
    "bf16": dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=32),
    "packed": dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=32),
}


def make(folder, name, sizes):
    torch.manual_seed(sum(map(ord, name)))
    sizes = dict(sizes)
    theta, factor = sizes.pop("rope_theta", 10000.0), sizes.pop("factor", None)
    rope = dict(rope_theta=theta, rope_type="default") if factor is None else dict(rope_theta=theta, rope_type="linear", factor=factor)
    config = LlamaConfig(vocab_size=61, intermediate_size=40, max_position_embeddings=32, rms_norm_eps=1e-6, bos_token_id=1,
                         eos_token_id=2, initializer_range=0.1, rope_parameters=rope, **{"num_hidden_layers": 2, **sizes})
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.uniform_(0.5, 1.5)
            if name == "bf16":  # exact in both dtypes
                parameter.copy_(parameter.to(torch.bfloat16).float())
    path = os.path.join(folder, name)
    stored = model
    if name == "bf16":
        stored = LlamaForCausalLM(config).to(torch.bfloat16)
        stored.load_state_dict(model.state_dict())
    stored.save_pretrained(path, max_shard_size="60KB" if name == "sharded" else "5GB")
    ids = torch.randint(0, 61, (STEPS, BATCH, SEQUENCE))
    # The position of each token in its document, and the label that follows it; some labels count for nothing.
    positions = torch.arange(SEQUENCE).expand(STEPS, BATCH, SEQUENCE).clone()
    if name == "packed":
        for cut in (5, 6, 13):
            positions[:, 0, cut:] = torch.arange(SEQUENCE - cut)
        positions[:, 1, 9:] = torch.arange(SEQUENCE - 9)
    labels = torch.full_like(ids, -100)
    labels[:, :, :-1] = ids[:, :, 1:]
    labels[:, :, :-1][positions[:, :, 1:] == 0] = -100
    labels[torch.rand(labels.shape) < 0.1] = -100
    expected = dict(ids=ids.int(), positions=positions.int(), labels=torch.where(labels < 0, -1, labels).int())

    def loss_of(step):
        start = torch.arange(SEQUENCE) - positions[step]
        query, key = torch.arange(SEQUENCE)[None, :, None], torch.arange(SEQUENCE)[None, None, :]
        allowed = (key <= query) & (key >= start[:, :, None])
        mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
        logits = model(input_ids=ids[step], position_ids=positions[step], attention_mask=mask, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[step].flatten(), ignore_index=-100)
        return logits, loss

    logits, loss = loss_of(0)
    if name != "packed":  # the model's own loss shifts labels itself
        own = model(input_ids=ids[0], labels=torch.cat([torch.full((BATCH, 1), -100), labels[0, :, :-1]], 1)).loss
        assert abs(own.item() - loss.item()) < 1e-6, (own, loss)
    loss.backward()
    expected["logits"] = logits.detach()
    for parameter_name, parameter in model.named_parameters():
        expected["gradient." + parameter_name] = parameter.grad.clone()
    model.zero_grad()
    decayed = [p for n, p in model.named_parameters() if "norm" not in n]  # what HF Trainer decays
    others = [p for n, p in model.named_parameters() if "norm" in n]
    optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=WEIGHT_DECAY), dict(params=others, weight_decay=0.0)],
                                  lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        _, loss = loss_of(step)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    for parameter_name, parameter in model.named_parameters():
        expected["final." + parameter_name] = parameter.detach().clone()
    expected["losses"], expected["norms"] = torch.tensor(losses), torch.tensor(norms)
    save_file({k: v.contiguous() for k, v in expected.items()}, os.path.join(path, "expected.safetensors"))
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(path, extra)):
            os.remove(os.path.join(path, extra))
    print(name, sum(p.numel() for p in model.parameters()), [round(x, 4) for x in losses[:2]], [round(x, 3) for x in norms[:2]])


for case, case_sizes in CASES.items():
    make(sys.argv[1], case, case_sizes)
json.dump(dict(learningRate=LEARNING_RATE, weightDecay=WEIGHT_DECAY, clip=CLIP, torch=torch.__version__),
          open(os.path.join(sys.argv[1], "about.json"), "w"))
