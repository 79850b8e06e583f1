"""A text classifier of transformers, unfrozen layer by layer from the head, each layer at a lower rate than the next.

As ULMFiT has it (Howard and Ruder 2018, https://arxiv.org/abs/1801.06146): gradual unfreezing, discriminative rates,
one rise and fall of the rate per phase. The model is small, has no pretrained weights, and reads sentences that are
made here, so that the example needs no download. In your own, `AutoModelForSequenceClassification.from_pretrained(…)`
takes the place of `small_bert`, and its tokenizer that of `numbers`.

pip install transformers && python examples/transformers_text.py
"""

import itertools

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from lightning_finetune import FineTune, Phase

SUBJECTS = ("the film", "this play", "her book", "his song", "the meal", "that game")
OPINIONS = (("dull", "awful", "sad", "weak"), ("fine", "superb", "bright", "moving"))  # of class 0, of class 1
DEGREES = ("is", "was very", "seemed rather", "is truly")


def sentences() -> list[tuple[str, int]]:
    """Sentences and the class of each, in an order of chance."""
    opinions = [(word, label) for label, words in enumerate(OPINIONS) for word in words]
    pairs = itertools.product(SUBJECTS, DEGREES, opinions)
    found = [(f"{subject} {degree} {word}", label) for subject, degree, (word, label) in pairs]
    return [found[place] for place in torch.randperm(len(found), generator=torch.Generator().manual_seed(1))]


WORDS = sorted({word for text, _ in sentences() for word in text.split()})


def numbers(rows: list[tuple[str, int]]) -> dict[str, torch.Tensor]:
    """A batch as transformers' tokenizers and models have it: 0 pads, 1 begins a sentence, words are 2 and more."""
    ids = [torch.tensor([1, *(WORDS.index(word) + 2 for word in text.split())]) for text, _ in rows]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    labels = torch.tensor([label for _, label in rows])
    return {"input_ids": padded, "attention_mask": (padded > 0).long(), "labels": labels}


def small_bert() -> BertForSequenceClassification:
    """Three layers of 64 units."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    return BertForSequenceClassification(BertConfig(vocab_size=len(WORDS) + 2, max_position_embeddings=16, **sizes))


class TextClassifier(pl.LightningModule):
    """Any model of transformers that gives a loss; it knows nothing of layer groups or phases."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        output = self.model(**batch)
        right = (output.logits.argmax(1) == batch["labels"]).float().mean()
        self.log_dict({"val_loss": output.loss, "val_accuracy": right}, batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    pl.seed_everything(1)
    rows = sentences()
    train = DataLoader(rows[:144], 8, shuffle=True, collate_fn=numbers)
    valid = DataLoader(rows[144:], 48, collate_fn=numbers)
    phases = [
        Phase(1, train="head", lr=3e-3),  # pooler and classifier
        Phase(1, train=2, lr=(1e-3, 3e-3)),  # and the last layer
        Phase(1, train=3, lr=(4e-4, 3e-3)),
        Phase(5, train="all", lr=(2e-4, 3e-3)),  # embeddings to head; ULMFiT divides by 2.6 a layer
    ]
    pl.Trainer(callbacks=[FineTune(phases)]).fit(TextClassifier(small_bert()), train, valid)


if __name__ == "__main__":
    main()
