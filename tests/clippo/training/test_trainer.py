import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch

from clippo.data.emoji import EmojiSource
from clippo.data.made_up import MadeUpConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.order import WeightedOrder
from clippo.errors import UserError
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ByteTextConfig, Clippo, RenderedTextConfig
from clippo.model.configs import to_dict
from clippo.renderer import ParagraphRenderer, ParagraphRendererConfig
from clippo.results import read_results
from clippo.training import trainer
from clippo.training.losses import SigmoidLossConfig, SoftmaxLoss
from clippo.training.optimizers import AdafactorConfig, AdamWConfig
from clippo.training.parallel import DistributedContext
from clippo.training.run_folder import RunFolder
from clippo.training.schedules import ConstantConfig, CosineConfig
from clippo.training.signals import Requests, Stopped
from clippo.training.trainer import train

ALONE = DistributedContext(0, 1, torch.device("cpu"))


def losses(folder) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def state(folder) -> dict[str, torch.Tensor]:
    return Clippo.from_pretrained(RunFolder(folder).newest_checkpoint()).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_falls(finished, tiny_config):
    by_step = losses(finished)
    assert list(by_step) == [5, 10, 15, 20]
    assert by_step[20] < by_step[5] - 0.3


@pytest.mark.long
def test_one_batch_over_and_over_is_learned(tiny_config, tmp_path, monkeypatch):
    """Well below the loss of a tower that says the same of everything."""
    batch = WeightedOrder.__call__
    monkeypatch.setattr(WeightedOrder, "__call__", lambda self, step: batch(self, 0))
    config = dataclasses.replace(tiny_config, steps=120, learning_rate=2e-3)
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run")[120] < 0.5 * math.log(config.batch_size)


def test_the_folder_holds_what_it_says(finished, tiny_config):
    assert RunFolder(finished).config() == tiny_config
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "curves.png",
        "evaluations.jsonl",
        "held_out.png",
        "metrics.jsonl",
        "results.json",
    ]
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["step-000020"]
    metrics = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["pairs_per_s"] > 0
    assert 0 < metrics["data_time"] < metrics["step_time"]
    evaluations = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evaluations] == [10, 20]
    results = read_results(finished / "results.json")
    assert results.provenance["step"] == 20
    assert {f"held_out/{row['metric']}": row["value"] for row in results.rows} == {
        name: value for name, value in evaluations[-1].items() if name != "step"
    }


class PulledPlugError(Exception):
    pass


def train_until(step: int, config, folder) -> None:
    """Cut a run off."""
    batch = WeightedOrder.__call__

    def cut(self, number):
        if number == step:
            raise PulledPlugError
        return batch(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightedOrder, "__call__", cut)
        with pytest.raises(PulledPlugError):
            train(config, folder)


@pytest.mark.parametrize("cut_at", [pytest.param(7, marks=pytest.mark.slow), 13])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(finished, tiny_config, tmp_path, cut_at):
    train_until(cut_at, tiny_config, tmp_path / "run")
    train(tiny_config, tmp_path / "run", resume=True)
    assert same(state(tmp_path / "run"), state(finished))
    assert losses(tmp_path / "run") == losses(finished)


@pytest.mark.slow
@pytest.mark.parametrize("cut_at", [7, 13])
def test_the_mean_of_the_weights_is_kept_evaluated_and_resumed(tiny_config, tmp_path, cut_at, monkeypatch):
    config = dataclasses.replace(tiny_config, ema_decay=0.9)
    weights, mean, step = [], None, trainer.cached_contrastive_step

    def noted(embed, *args, **kwargs):
        weights.append([parameter.detach().clone() for parameter in step_model(embed).parameters()])
        return step(embed, *args, **kwargs)

    monkeypatch.setattr(trainer, "cached_contrastive_step", noted)
    used = train(config, tmp_path / "whole")
    monkeypatch.undo()
    last = torch.load(RunFolder(tmp_path / "whole").newest_checkpoint() / "state.pt", weights_only=True)[
        "weights"
    ]
    weights.append([last[name] for name, _ in used.named_parameters()])
    mean = weights[1]
    for after in weights[2:]:
        mean = [0.9 * a + 0.1 * b for a, b in zip(mean, after, strict=True)]
    for found, expected in zip(used.parameters(), mean, strict=True):
        torch.testing.assert_close(found.detach(), expected)
    kept = RunFolder(tmp_path / "whole").load_model().state_dict()
    assert same(kept, used.state_dict())

    train_until(cut_at, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    values = [read_results(tmp_path / name / "results.json").rows for name in ("cut", "whole")]
    assert values[0] == values[1]


def step_model(embed):
    """The model that a step embeds with."""
    return embed.model


@pytest.fixture
def default_signals():
    """Signals as in a foreground job; a background job or nohup ignores some, which its children inherit."""
    handlers = {signal.SIGINT: signal.default_int_handler}
    handlers |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1), signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_a_run_with_a_checkpoint(finished, tiny_config, tmp_path, monkeypatch, name):
    number = getattr(signal, name)
    batch, before = WeightedOrder.__call__, signal.getsignal(number)

    def interrupted(self, step):
        if step == 6:
            os.kill(os.getpid(), number)
        return batch(self, step)

    monkeypatch.setattr(WeightedOrder, "__call__", interrupted)
    message = f"stopped by {name} after step 7, whose checkpoint is saved"
    with pytest.raises(Stopped, match=message) as stopped:
        train(tiny_config, tmp_path / "run")
    assert stopped.value.signal == number
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    train(tiny_config, tmp_path / "run", resume=True)
    assert same(state(tmp_path / "run"), state(finished))
    assert losses(tmp_path / "run") == losses(finished)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Requests(ALONE, 0) as requests:
            os.kill(os.getpid(), signal.SIGHUP)
        assert requests.signal == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("default_signals")
def test_a_second_signal_ends_the_process_at_once():
    with Requests(ALONE, 0) as requests:
        os.kill(os.getpid(), signal.SIGINT)
        assert requests.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.usefixtures("default_signals")
def test_usr1_asks_for_a_checkpoint_and_the_run_goes_on(finished, tiny_config, tmp_path, monkeypatch):
    batch, saved = WeightedOrder.__call__, []

    def asked(self, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        return batch(self, step)

    save = RunFolder.save_checkpoint
    monkeypatch.setattr(WeightedOrder, "__call__", asked)
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda *args: saved.append(args[1]) or save(*args))
    train(tiny_config, tmp_path / "run")
    assert saved == [7, 10, 20]
    assert same(state(tmp_path / "run"), state(finished))


def test_a_checkpoint_is_due_when_the_last_is_old(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    requests = Requests(ALONE, 2)
    assert requests.after(1) == (False, False)
    clock[0] = 121.0
    assert requests.after(2) == (False, True)
    requests.saved()
    assert requests.after(3) == (False, False)
    several = Requests(dataclasses.replace(ALONE, world_size=2), 2)
    clock[0] = 300.0
    assert several.after(9) == (False, False)  # they agree at every tenth step


@pytest.mark.slow
def test_other_data_do_not_go_on_with_a_run(tiny_config, tmp_path, monkeypatch):
    train_until(13, tiny_config, tmp_path / "run")
    monkeypatch.setattr(EmojiSource, "fingerprint", "of another font")
    with pytest.raises(UserError, match="the data are not what .*run was trained with"):
        train(tiny_config, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_run_may_be_made_longer_but_not_shorter_than_it_is(tiny_config, tmp_path):
    train_until(13, tiny_config, tmp_path / "run")
    with pytest.raises(UserError, match="steps must be at least 10, as in the checkpoint, got 9"):
        train(dataclasses.replace(tiny_config, steps=9), tmp_path / "run", resume=True)
    train(dataclasses.replace(tiny_config, steps=22), tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000022"]


def test_a_warm_up_longer_than_the_run_is_warned_of(tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, steps=2, warmup_steps=2, evaluators={})
    with pytest.warns(UserWarning, match="the warm-up of 2 steps does not end within the 2 steps of the run"):
        train(config, tmp_path / "run")


def test_texts_that_are_cut_are_counted_and_warned_of(tiny_config, tmp_path):
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, text=ByteTextConfig(max_bytes=4)),
        steps=3,
        log_every=1,
        evaluators={},
    )
    with pytest.warns(UserWarning, match="of the 16 texts of step 1 are too long for the model") as caught:
        train(config, tmp_path / "run")
    assert len([w for w in caught if "too long" in str(w.message)]) == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    counts = [json.loads(line)["cut_texts"] for line in lines]
    assert 0 < counts[0] < counts[1] < counts[2]


@pytest.mark.long
def test_patch_dropout_follows_from_the_seed_and_the_step(tiny_config, tmp_path):
    """Also in chunks, which are embedded twice, with blocks computed twice, and after a resumption."""
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, text=RenderedTextConfig(tokens="inked")),
        steps=6,
        checkpoint_every=2,
        micro_batch_size=5,
        patch_dropout=0.5,
    )
    train(config, tmp_path / "whole")
    whole = state(tmp_path / "whole")
    train_until(5, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "cut"), whole)
    train(dataclasses.replace(config, grad_checkpointing=True), tmp_path / "recomputed")
    for name, value in state(tmp_path / "recomputed").items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=1e-4)
    train(dataclasses.replace(config, patch_dropout=0.0), tmp_path / "all")
    assert not same(state(tmp_path / "all"), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallel": "zero"}, "parallel must be one of ddp, fsdp, got 'zero'"),
        ({"precision": "float16"}, "precision must be one of auto, bfloat16, float32, got 'float16'"),
        (
            {"parallel": "fsdp", "optimizer": AdafactorConfig()},
            "such as adamw, for parallel fsdp, got adafactor",
        ),
        ({"resolutions": ("32",)}, "resolutions must be SIZE=SHARE, such as 112=0.5, got '32'"),
        ({"resolutions": ("40=0.5",)}, "resolutions must be multiples of 16 px up to 48, got 40"),
        ({"resolutions": ("32=0.7", "32=0.4")}, "at most 1 in all, got '32=0.4'"),
        ({"unmasked_steps": -1}, "unmasked_steps must not be negative, got -1"),
        ({"patch_dropout": 1.0}, "patch_dropout must be from 0 to below 1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"workers": -1}, "workers must not be negative, got -1"),
        ({"log_every": 0}, "log_every must be from 1 to 2147483647, got 0"),
        ({"steps": 2**63}, "steps must be from 1 to 2147483647, got 9223372036854775808"),
        ({"micro_batch_size": 10**30}, "micro_batch_size must be from 1 to 2147483647"),
        ({"learning_rate": math.inf}, "learning_rate must be finite, got inf"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
        ({"residual_scale": math.inf}, "residual_scale must be finite, got inf"),
    ],
)
def test_impossible_settings(tiny_config, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tiny_config, **change)


def test_resuming_a_finished_run_changes_nothing(finished, tiny_config):
    before = state(finished)
    train(tiny_config, finished, resume=True)
    assert same(state(finished), before)


@pytest.mark.long
def test_two_processes_train_as_one_does(finished, tiny_config, tmp_path):
    """Through torchrun and the command line, in a folder that holds a stranger's model.py."""
    (tmp_path / "model.py").write_text("raise SystemExit('a stranger was imported')")
    flags = [
        flag
        for key, value in flat_flags(to_dict(tiny_config))
        for flag in (f"--{key.replace('_', '-')}", *value)
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*torchrun, "-m", "clippo", "train", "emoji", "--out", "run", "--resume", *flags]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    one, two = state(finished), state(tmp_path / "run")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=0, msg=name)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), abs=1e-3)


@pytest.mark.long
def test_chunks_train_as_a_whole_batch_does(finished, tiny_config, tmp_path):
    assert tiny_config.batch_size % 5
    train(dataclasses.replace(tiny_config, micro_batch_size=5), tmp_path / "run")
    one, other = state(finished), state(tmp_path / "run")
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=2e-3, rtol=0, msg=name)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), abs=1e-3)


def flat_flags(fields, prefix=""):
    """The fields of a configuration as arguments, the names of its parts before their fields."""
    if "type" in fields:
        yield prefix.removesuffix("."), [fields["type"]]
    for key, value in fields.items():
        if key in ("type", "evaluators") or value is None:
            continue
        if isinstance(value, dict):
            yield from flat_flags(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            yield prefix + ("" if value else "no-") + key, []
        else:
            yield prefix + key, [str(v) for v in (value if isinstance(value, list) else [value])]


def test_a_batch_must_divide_among_the_processes():
    assert DistributedContext(1, 4, torch.device("cpu")).shard(32) == slice(8, 16)
    with pytest.raises(UserError, match="batch_size must be a multiple of the 4 processes, got 30"):
        DistributedContext(1, 4, torch.device("cpu")).shard(30)


def test_a_run_that_diverges_ends_and_keeps_its_last_good_checkpoint(tiny_config, tmp_path, monkeypatch):
    """Also where a checkpoint is due before the loss is looked at for the log."""
    config = dataclasses.replace(tiny_config, steps=12, checkpoint_every=2, log_every=7, evaluators={})
    schedule = CosineConfig.factor
    diverging = lambda self, step, **kwargs: 1e30 if step == 4 else schedule(self, step, **kwargs)  # noqa: E731
    monkeypatch.setattr(CosineConfig, "factor", diverging)
    with pytest.raises(
        UserError, match="the loss or its gradient is not finite at step 6; .*--learning-rate"
    ):
        train(config, tmp_path / "run")
    checkpoint = RunFolder(tmp_path / "run").newest_checkpoint()
    assert checkpoint.name == "step-000004"
    assert all(value.isfinite().all() for value in state(tmp_path / "run").values())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(tiny_config, tmp_path, monkeypatch, what):
    config = dataclasses.replace(tiny_config, steps=6, checkpoint_every=6, log_every=6, evaluators={})
    step_of, models = trainer.cached_contrastive_step, []

    def spoiled(embed, *args, **kwargs):
        value = step_of(embed, *args, **kwargs)
        model = step_model(embed)
        models.append((model, [p.detach().clone() for p in model.parameters()]))
        if len(models) >= 3:
            if what == "loss":
                return value * torch.nan
            model.tower.encoder.head.weight.grad[0, 0] = torch.inf
        return value

    monkeypatch.setattr(trainer, "cached_contrastive_step", spoiled)
    with pytest.raises(UserError, match="not finite at step 3;"):
        train(config, tmp_path / "run")
    model, before = models[2]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert RunFolder(tmp_path / "run").newest_checkpoint() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [AdamWConfig(), pytest.param(AdafactorConfig(), marks=pytest.mark.slow)],
    ids=["adamw", "adafactor"],
)
def test_some_steps_that_are_not_finite_may_be_skipped(tiny_config, tmp_path, monkeypatch, optimizer):
    config = dataclasses.replace(
        tiny_config, optimizer=optimizer, steps=8, checkpoint_every=4, log_every=1, evaluators={},
        max_skipped_steps=2,
    )  # fmt: skip
    step_of, spoiled_batches, order = trainer.cached_contrastive_step, {3, 5}, WeightedOrder.__call__
    weights: dict[int, list] = {}
    current = []

    def noted(self, step):
        current.append(step)
        return order(self, step)

    def spoiled(embed, *args, **kwargs):
        weights[current[-1]] = [parameter.detach().clone() for parameter in step_model(embed).parameters()]
        value = step_of(embed, *args, **kwargs)
        return value * torch.nan if current[-1] in spoiled_batches else value

    monkeypatch.setattr(trainer, "cached_contrastive_step", spoiled)
    monkeypatch.setattr(WeightedOrder, "__call__", noted)
    train(config, tmp_path / "whole")
    unchanged = {
        step for step in range(7)
        if all(torch.equal(a, b) for a, b in zip(weights[step], weights[step + 1], strict=True))
    }  # fmt: skip
    assert unchanged == spoiled_batches
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["skipped_steps"] for line in lines] == [0, 0, 0, 1, 1, 2, 2, 2]

    train_until(6, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    with pytest.raises(UserError, match=r"not finite at step 6; .*--max-skipped-steps is 1"):
        train(dataclasses.replace(config, max_skipped_steps=1), tmp_path / "few")


@pytest.mark.slow
def test_a_run_goes_back_and_on_with_other_batches(tiny_config, tmp_path, monkeypatch):
    """And again from the same checkpoint when it is resumed, to the same weights."""
    config = dataclasses.replace(
        tiny_config, steps=10, checkpoint_every=4, log_every=1, evaluators={}, max_rewinds=1
    )
    step_of, order, seen = trainer.cached_contrastive_step, WeightedOrder.__call__, []

    def noted(self, step):
        seen.append(step)
        return order(self, step)

    def spoiled(embed, *args, **kwargs):
        value = step_of(embed, *args, **kwargs)
        return value * torch.nan if seen[-1] == 5 else value

    monkeypatch.setattr(trainer, "cached_contrastive_step", spoiled)
    monkeypatch.setattr(WeightedOrder, "__call__", noted)
    with pytest.warns(UserWarning, match="not finite at step 6: the run goes on from step 4 with other"):
        train(config, tmp_path / "whole")
    assert seen == [*range(12)]  # the batches 4 and 5 are left out
    assert [*losses(tmp_path / "whole")] == [*range(1, 11)]
    seen.clear()
    with pytest.warns(UserWarning, match="the run goes on from step 4"):
        train_until(10, config, tmp_path / "cut")
    assert RunFolder(tmp_path / "cut").newest_checkpoint().name == "step-000008"
    seen.clear()
    train(config, tmp_path / "cut", resume=True)
    assert seen == [10, 11]
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    with pytest.raises(UserError, match=r"not finite at step 6; .*--max-rewinds is 0"):
        train(dataclasses.replace(config, max_rewinds=0), tmp_path / "none")


def test_the_last_steps_leave_no_patches_out(tiny_config, tmp_path, monkeypatch):
    config = dataclasses.replace(tiny_config, steps=6, evaluators={}, patch_dropout=0.5, unmasked_steps=2)
    step_of, dropped = trainer.cached_contrastive_step, []

    def noted(embed, *args, **kwargs):
        dropped.append(embed.patch_dropout)
        return step_of(embed, *args, **kwargs)

    monkeypatch.setattr(trainer, "cached_contrastive_step", noted)
    train(config, tmp_path / "run")
    assert dropped == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]


@pytest.fixture
def with_texts(tiny_config):
    """Half of the pairs are pairs of texts."""
    texts = MadeUpConfig(count=32, words=1, text_share=1.0)
    return dataclasses.replace(
        tiny_config,
        data=MixtureConfig(sources=(tiny_config.data, texts), shares=(1, 1)),
        evaluators={"texts": RetrievalConfig(data=texts, queries="train", candidates="train")},
        schedule=ConstantConfig(),
        patch_dropout=0.5,
        micro_batch_size=6,
        checkpoint_every=5,
    )


def test_pairs_of_texts_are_learned_beside_images(with_texts, tmp_path):
    train(with_texts, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert found[20] < found[5]


@pytest.mark.slow
def test_a_run_with_pairs_of_texts_goes_on_bit_for_bit(with_texts, tmp_path):
    train(with_texts, tmp_path / "whole")
    train(dataclasses.replace(with_texts, steps=10), tmp_path / "cut")
    train(with_texts, tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["all", "inked"])
def test_images_grow_in_the_course_of_a_run(tiny_config, tmp_path, monkeypatch, tokens):
    config = dataclasses.replace(
        tiny_config, steps=8, checkpoint_every=4, evaluators={}, resolutions=("16=0.25", "32=0.25"),
        model=dataclasses.replace(tiny_config.model, text=RenderedTextConfig(tokens=tokens)),
    )  # fmt: skip
    step_of, sizes = trainer.cached_contrastive_step, []

    def noted(embed, images, *args, **kwargs):
        sizes.append(images.shape[1])
        value = step_of(embed, images, *args, **kwargs)
        assert embed.model.tower.patch_embed.pos_embed.grad.abs().sum(-1).min() > 0  # of all positions
        return value

    monkeypatch.setattr(trainer, "cached_contrastive_step", noted)
    train(config, tmp_path / "whole")
    assert sizes == [16, 16, 32, 32, 48, 48, 48, 48]
    sizes.clear()
    train_until(6, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))


@pytest.mark.slow
def test_products_in_bfloat16_train_float32_weights(finished, tiny_config, tmp_path):
    model = train(dataclasses.replace(tiny_config, precision="bfloat16"), tmp_path / "run")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    found, expected = losses(tmp_path / "run"), losses(finished)
    assert found != expected
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.long
def test_compiled_blocks_train_as_the_others_do(finished, tiny_config, tmp_path):
    train(dataclasses.replace(tiny_config, compile=True), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), abs=1e-3)
    assert state(tmp_path / "run").keys() == state(finished).keys()


@pytest.mark.slow
def test_equal_texts_are_merged_on_request(tiny_config, tmp_path, monkeypatch):
    given = []
    forward = SoftmaxLoss.forward
    monkeypatch.setattr(
        SoftmaxLoss, "forward", lambda self, *args: given.append(args[4]) or forward(self, *args)
    )
    config = dataclasses.replace(tiny_config, steps=2, evaluators={}, micro_batch_size=5)
    train(config, tmp_path / "run")
    assert given == [None, None]
    train(dataclasses.replace(config, merge_equal_texts=True), tmp_path / "merged")
    assert [labels.shape for labels in given[2:]] == [(16,), (16,)]


@pytest.mark.slow
@pytest.mark.parametrize("num_towers", [1, 2])
def test_models_that_read_bytes_train_and_resume(tiny_config, tmp_path, num_towers):
    text = {"text": ByteTextConfig(max_bytes=20), "num_towers": num_towers}
    config = dataclasses.replace(
        tiny_config, model=dataclasses.replace(tiny_config.model, **text), evaluators={}
    )
    model = train(config, tmp_path / "run")
    loaded = RunFolder(tmp_path / "run").load_model()
    assert loaded.config == config.model
    assert torch.equal(loaded.encode_text(["hund"]), model.encode_text(["hund"]))
    train(config, tmp_path / "run", resume=True)


@pytest.mark.long
def test_the_sigmoid_loss_trains_its_bias_and_resumes(tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, loss=SigmoidLossConfig(), evaluators={})
    train(config, tmp_path / "whole")
    assert losses(tmp_path / "whole")[20] < losses(tmp_path / "whole")[5]
    file = RunFolder(tmp_path / "whole").newest_checkpoint() / "state.pt"
    bias = torch.load(file, weights_only=True)["loss"]["logit_bias"]
    assert bias != -10
    train_until(13, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    file = RunFolder(tmp_path / "cut").newest_checkpoint() / "state.pt"
    assert torch.equal(torch.load(file, weights_only=True)["loss"]["logit_bias"], bias)


def test_another_renderer_can_be_trained_with(tiny_config, tmp_path):
    renderer = ParagraphRendererConfig(font_size=12)
    config = dataclasses.replace(tiny_config, renderer=renderer, steps=2, evaluators={})
    train(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").config() == config
    model = RunFolder(tmp_path / "run").load_model()
    assert type(model.renderer) is ParagraphRenderer
    assert model.renderer.font_size == 12


@pytest.mark.long
def test_workers_train_as_the_process_itself_does(finished, tiny_config, tmp_path):
    train(dataclasses.replace(tiny_config, workers=1, evaluators={}), tmp_path / "run")
    assert same(state(tmp_path / "run"), state(finished))


def test_only_matrices_decay(tiny_config):
    model = Clippo(tiny_config.model)
    decayed, free = tiny_config.optimizer.build(model.named_parameters(), model.config).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    free_names = {names[id(p)] for p in free["params"]}
    assert decayed_names | free_names == set(names.values())
    encoder = "tower.encoder"
    matrices = {f"{encoder}.blocks.0.attn.qkv.weight", f"{encoder}.head.weight", "tower.patch_embed.weight"}
    assert matrices <= decayed_names
    others = {"logit_scale", "tower.patch_embed.pos_embed", f"{encoder}.pool.probe", f"{encoder}.norm.weight"}
    assert others <= free_names
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0


@pytest.mark.parametrize(("field", "value"), [("weight_decay", -1.0), ("beta2", 1.0), ("beta1", -0.1)])
def test_impossible_optimizers(field, value):
    with pytest.raises(UserError, match=rf"optimizer\.{field} must .*, got {value}"):
        AdamWConfig(**{field: value})
