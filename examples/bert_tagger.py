"""A tagger of names in sentences: transformers' BERT, small and untrained, and sentences with real surnames.

torchmill train --data examples/bert_tagger.py:sentences --data.args.folder names --task token_labels \
    --model examples/bert_tagger.py:tagger

The folder holds files of surnames, one in a line, such as those of the data set ``names``.
"""

import random
from pathlib import Path

FIRST = ("Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hiro", "Ines", "Jonas", "Kira", "Liam", "Noor")
TYPES = {
    "L": ("Paris", "Oslo", "Rome", "Lagos", "Lima", "Quito", "Delhi", "Kyoto", "Cairo", "Turin", "Lyon", "Porto"),
    "O": ("Acme", "Globex", "Initech", "Umbrella", "Hooli", "Vandelay", "Wonka", "Stark"),
}
LABELS = {"P": "PER", "L": "LOC", "O": "ORG"}
TEMPLATES = (
    "{P} lives in {L} .",
    "Yesterday {P} and {P} met in {L} , near the office of {O} .",
    "{O} hired {P} .",
    "The train to {L} was late , said {P} .",
    "In {L} , {P} opened a shop for {O} .",
    "Doctor {P} wrote to {O} from {L} .",
    "Nobody but {P} had seen the river so high .",
)


def sentences(folder="names", samples=4000, seed=0):
    """Return sentences as words with labels; surnames of test sentences occur in no training sentence."""
    rng = random.Random(seed)
    lines = {line.strip() for file in Path(folder).glob("*.txt") for line in file.read_text("utf-8").splitlines()}
    surnames = sorted(line for line in lines if line and " " not in line)
    rng.shuffle(surnames)
    fifth = len(surnames) // 5
    return {
        "train": texts(rng, surnames[fifth:], samples),
        "test": texts(rng, surnames[:fifth], samples // 4),
    }


def texts(rng, surnames, count):
    tokens, tags = [], []
    for _ in range(count):
        words, labels = [], []
        for word in rng.choice(TEMPLATES).split():
            kind = word[1:-1] if word.startswith("{") else ""
            name = [rng.choice(FIRST), rng.choice(surnames)][rng.randint(0, 1) :] if kind == "P" else [word]
            name = [rng.choice(TYPES[kind])] if kind in TYPES else name
            words += name
            labels += [f"{'BI'[at > 0]}-{LABELS[kind]}" if kind else "O" for at in range(len(name))]
        tokens.append(words)
        tags.append(labels)
    return {"tokens": tokens, "tags": tags}


def tagger(vocab_size, num_classes, padding_index, width=64, layers=2, longest=512):
    """Return BERT with a label for each token; forward takes input_ids and attention_mask."""
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=longest,
        num_labels=num_classes,
        pad_token_id=padding_index,
    )
    return BertForTokenClassification(config)
