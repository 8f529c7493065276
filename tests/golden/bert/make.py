# SPDX-License-Identifier: Apache-2.0
"""What `transformers` makes of a BERT, for trainer_tests (tests/trainer/huggingface_test.cpp) to compare with.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers
    /tmp/venv/bin/python tests/golden/bert/make.py --out tests/golden/bert         # the tiny random one
    /tmp/venv/bin/python tests/golden/bert/make.py --model DIR --out /tmp/golden   # any other; then
    STIPPLE_BERT_GOLDEN=/tmp/golden build/tests/trainer/trainer_tests --gtest_filter='HuggingFace.AgreesWithTransformers'

Writes into --out: the model (config.json, model.safetensors, vocab.txt) and expected.safetensors: ids, segments and mask of a
few sequences, hidden states of the last layer, pooled vectors, and masked-LM logits where the model has that head.
"""
import argparse
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel

SEQUENCES, TOKENS = 3, 12


def tiny():
    """Weights large enough that no path is lost in rounding."""
    torch.manual_seed(1)
    model = BertForPreTraining(BertConfig(
        vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, type_vocab_size=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    return model


def expected_of(model, folder, has_head):
    config = model.config
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, config.vocab_size, (SEQUENCES, TOKENS), generator=generator)
    lengths = torch.tensor([TOKENS, TOKENS - 3, 1]).unsqueeze(1)
    mask = (torch.arange(TOKENS).unsqueeze(0) < lengths).long()
    segments = (torch.arange(TOKENS).unsqueeze(0) >= TOKENS // 2).long().expand(SEQUENCES, TOKENS) * mask
    ids = ids * mask
    model.eval()
    with torch.no_grad():
        bert = model.bert if has_head else model
        out = bert(input_ids=ids, attention_mask=mask, token_type_ids=segments)
        tensors = {"ids": ids, "segments": segments, "mask": mask, "hidden": out.last_hidden_state, "pooled": out.pooler_output}
        if has_head:
            tensors["logits"] = model.cls.predictions(out.last_hidden_state)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, help="folder of a BERT; the tiny random one by default")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.model is None:
        model = tiny()
        model.save_pretrained(arguments.out)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(91)]
        (arguments.out / "vocab.txt").write_text("\n".join(words) + "\n")
        (arguments.out / "generation_config.json").unlink(missing_ok=True)
        expected_of(model, arguments.out, has_head=True)
        return
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        shutil.copy(arguments.model / name, arguments.out / name)
    has_head = any(name.startswith("cls.predictions.") for name in load_file(arguments.out / "model.safetensors"))
    kind = BertForPreTraining if has_head else BertModel
    expected_of(kind.from_pretrained(arguments.out, attn_implementation="eager"), arguments.out, has_head)


main()
