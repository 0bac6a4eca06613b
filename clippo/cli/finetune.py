"""Fine-tune a model for a task on texts, on questions about pictures, or on pictures with labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clippo.arguments import call
from clippo.errors import UserError

if TYPE_CHECKING:
    from clippo.finetuning.tasks import Task
    from clippo.model import Clippo

__all__ = ["main"]


def finetune(
    model: str,
    task: str,
    /,
    *,
    out: Path,
    root: str = "",
    data: str | None = None,
    learning_rates: tuple[float, ...] = (),
    seeds: int = 1,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int = 32,
    freeze: bool = False,
    layer_decay: float = 1.0,
    position_multiplier: float = 1.0,
    patience: int | None = None,
    position: Literal["top", "middle", "bottom"] = "top",
    max_train: int | None = None,
    max_test: int | None = None,
) -> None:
    """Fine-tune a model for a task, once for each learning rate and seed, and test the best learning rate.

    Ten times a run a line says whether the model is better than the majority class, or than the mean:

        clippo finetune runs/emoji sentiment --out runs/sentiment --max-steps 200
        clippo finetune runs/emoji sentiment --out runs/probe --freeze
        clippo finetune runs/emoji texts --data reviews.csv --out runs/reviews
        clippo finetune runs/emoji labels --data folder:photos --out runs/classes
        clippo finetune runs/emoji vqa --out runs/vqa --position-multiplier 10
        clippo finetune clippo_b16_yfcc100m.npz vqa --root /data/vqa2 --out runs/vqa2
        clippo finetune clippo_b16_yfcc100m.npz glue --root /data/glue --seeds 3 --out runs/glue

    Tasks: sentiment, rating, domain, language, section, noun_class, is_a, words_in_context and relatedness,
    on what `clippo data fetch texts` brings; glue, or glue/cola and others; vqa; labels; texts.

    What has ended is not done again: the same command goes on after an interruption, and with other learning
    rates or more seeds it adds those. The folder then holds results.json, curves.png, a folder for each run,
    and the best model, for `clippo.finetuning.fine_tuned.FineTuned.from_pretrained`.

    Args:
        model: A run of `clippo train`, a folder of `save_pretrained`, a .npz of big_vision, or hf://owner/name.
        task: What to fine-tune for.
        out: Folder for the results.
        root: Folder of GLUE, of the fetched texts, or of VQA v2; without it, questions are made from the
            picture dictionary.
        data: For labels, a source of pictures with labels, such as folder:photos; for texts, a .csv, .tsv or
            .jsonl with the columns text, for pairs second, and label or score.
        learning_rates: To choose from by the examples for choosing; by default four that suit the width of
            the tower.
        seeds: Runs of each learning rate.
        epochs: How often each example is seen; 3 by default, and 30 with --freeze.
        max_steps: End each run after so many steps.
        batch_size: Examples of a step.
        freeze: Train the head alone, on features that are computed once.
        layer_decay: Factor on the learning rate from each layer to the one below it.
        position_multiplier: Factor on the learning rate of the position embedding.
        patience: End a run early, after so many measurements without a better one.
        position: Where questions are drawn.
        max_train: Examples to train on, at most.
        max_test: Examples to test on, at most.
    """
    import torch

    from clippo.evaluation.summary import markdown
    from clippo.finetuning.glue import finetune_glue
    from clippo.finetuning.sweep import SweepConfig, default_learning_rates, sweep
    from clippo.finetuning.trainer import FinetuneConfig
    from clippo.training.run_folder import load_model, with_renderer

    run = FinetuneConfig(
        epochs=epochs, batch_size=batch_size, max_steps=max_steps, freeze=freeze, layer_decay=layer_decay,
        position_multiplier=position_multiplier, patience=patience,
    )  # fmt: skip
    if learning_rates:
        SweepConfig(learning_rates=learning_rates, seeds=seeds, run=run)  # checks them before any work
    loaded = with_renderer(load_model(model)).to("cuda" if torch.cuda.is_available() else "cpu")
    rates = learning_rates or default_learning_rates(loaded.config.width, freeze=freeze)
    config = SweepConfig(learning_rates=rates, seeds=seeds, run=run)

    def load(name: str) -> Task:
        return loaded_task(
            name, loaded, model, data, root=root, position=position, max_train=max_train, max_test=max_test
        )

    about = {"source": Path(model).name}
    if task == "glue":
        if not root:
            raise UserError("clippo finetune MODEL glue needs --root, the folder of GLUE's data")
        result = finetune_glue(loaded, load, config, out, **about)
        print(f"\n{markdown(result.rows)}\n\nwritten to {', '.join(map(str, result.files))}")
        return
    swept = sweep(loaded, load(task), config, out, **about)
    print(f"\n{markdown(swept.rows)}\n\nlearning rate {swept.learning_rate:g}, model {swept.model}")
    print(f"written to {', '.join(map(str, swept.files))}")


def loaded_task(name: str, model: Clippo, source: str, data: str | None, **options: Any) -> Task:
    """Read a task; pictures with labels are transformed as in the training of the model, if it is a run."""
    from clippo.data.spec import source_config
    from clippo.data.transform import SquashConfig, TransformConfig
    from clippo.finetuning.tasks import load_named_task
    from clippo.training.run_folder import RunFolder

    run = RunFolder(source)
    transform: TransformConfig = SquashConfig(resize=model.config.resize)
    if run.checkpoints.is_dir():
        transform = run.config().transform
    given = source_config(data) if data is not None and name == "labels" else data
    return load_named_task(
        name, data=given, transform=transform, image_size=model.config.image_size, **options
    )


def main(arguments: list[str]) -> None:
    call(finetune, arguments, prog="clippo finetune")
