import dataclasses
import json
import os
import shutil

import pytest
import torch

from clippo import files
from clippo.errors import UserError
from clippo.model import Clippo
from clippo.training import checkpoint
from clippo.training.losses import SoftmaxLoss
from clippo.training.parallel import DistributedContext
from clippo.training.run_folder import RunFolder, with_renderer
from clippo.training.state import TrainState


@pytest.fixture
def folder(tmp_path, tiny_config) -> RunFolder:
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create(tiny_config, resume=False)
    return folder


def new_state(config, model_config=None) -> TrainState:
    """The state of a run before its first step."""
    config = dataclasses.replace(config, model=model_config or config.model)
    model, context = Clippo(config.model), DistributedContext(0, 1, torch.device("cpu"))
    return TrainState.build(config, model, SoftmaxLoss(), context)


@pytest.fixture
def trainee(tiny_config) -> TrainState:
    """The state after ten steps."""
    state = new_state(tiny_config)
    sum(parameter.sum() for parameter in state.model.parameters()).backward()
    return trained_to(10, state)


def trained_to(step: int, state: TrainState) -> TrainState:
    done = next(iter(state.optimizer.state.values()), {"step": 0})["step"]
    for _ in range(int(step - done)):
        state.optimizer.step()
    return state


def test_a_run_is_not_overwritten(folder, tiny_config):
    with pytest.raises(UserError, match="holds a run already: add --resume to continue it"):
        folder.create(tiny_config, resume=False)
    folder.create(tiny_config, resume=True)
    assert folder.config() == tiny_config


def test_the_length_and_the_intervals_of_a_run_may_change(folder, tiny_config):
    longer = dataclasses.replace(
        tiny_config, steps=99, log_every=1, checkpoint_every=2, workers=1, trackers=("tensorboard",)
    )
    folder.release()
    folder.create(longer, resume=True)
    assert folder.config() == longer


def test_one_process_at_a_time_trains_in_a_folder(folder, tiny_config):
    with pytest.raises(UserError, match="another process is training in .*deep/run"):
        RunFolder(folder.path).create(tiny_config, resume=True)
    folder.release()
    RunFolder(folder.path).create(tiny_config, resume=True)


def test_a_run_that_died_at_its_first_write_can_be_started(tmp_path, tiny_config):
    (tmp_path / "unfinished-config.json").write_text('{"mod')
    RunFolder(tmp_path).create(tiny_config, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_another_configuration_is_not_resumed(folder, tiny_config):
    before = folder.config_file.read_text()
    other = dataclasses.replace(
        tiny_config, seed=7, model=dataclasses.replace(tiny_config.model, width=64), steps=21
    )
    with pytest.raises(UserError, match=r"model.width is 32 there and 64 here \(and 1 more differ\)"):
        folder.create(other, resume=True)
    assert folder.config_file.read_text() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path, tiny_config):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(UserError, match="is not empty and holds no run"):
            RunFolder(tmp_path).create(tiny_config, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, tiny_config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into .*file/run: Not a directory"):
        RunFolder(tmp_path / "file" / "run").create(tiny_config, resume=False)


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "evaluations.jsonl"])
def test_a_folder_of_other_things_under_the_names_of_a_run(folder, tiny_config, name):
    folder.release()
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\n')
    if name == "checkpoints":
        (folder.path / name).write_text("mine")
    else:
        (folder.path / name).unlink(missing_ok=True)
        os.mkfifo(folder.path / name)
    with pytest.raises(UserError, match=f"{name} must be a"):
        folder.create(tiny_config, resume=True)
    if name == "checkpoints":
        assert folder.metrics_file.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/no/such/folder")])
def test_checkpoints_that_are_no_folder_stop_a_resume(folder, tiny_config, make):
    folder.release()
    folder.metrics_file.write_text('{"step": 1}\n')
    make(folder.checkpoints)
    with pytest.raises(UserError, match="checkpoints must be a folder"):
        folder.create(tiny_config, resume=True)
    assert folder.metrics_file.read_text() == '{"step": 1}\n'


def test_a_full_disk_names_the_file(folder, monkeypatch):
    folder.metrics_file.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write into .*metrics\.jsonl: No space left on device"):
        folder.append_metrics({"step": 1.0})


def test_kept_embeddings_are_those_that_were_written(folder, trainee):
    folder.save_checkpoint(10, trainee, {})
    wanted = torch.arange(6.0).view(3, 2)
    asked = []

    def embed():
        asked.append(1)
        return wanted

    for expected in (1, 1):
        assert torch.equal(folder.cached_embeddings("a", embed), wanted)
        assert len(asked) == expected
    file = folder.path / "embeddings.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert torch.equal(folder.cached_embeddings("a", embed), wanted)
    file.unlink()
    os.mkfifo(file)
    assert torch.equal(folder.cached_embeddings("a", embed), wanted)
    assert len(asked) == 3


def test_what_is_no_run_is_said(tmp_path, folder):
    with pytest.raises(UserError, match="is not the folder of a run: it has no config.json"):
        RunFolder(tmp_path).config()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        folder.load_model()
    config = json.loads(folder.config_file.read_text())
    for broken in ("{", "[]", "{}", json.dumps(config | {"extra": 1}), json.dumps(config | {"steps": 0})):
        folder.config_file.write_text(broken)
        with pytest.raises(UserError, match="is not the configuration of a run"):
            folder.config()


def test_checkpoints_replace_one_another_and_restore_everything(folder, tiny_config, trainee):
    folder.save_checkpoint(10, trainee, {})
    trained_to(20, trainee)
    folder.save_checkpoint(20, trainee, {})
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000020"]

    fresh = new_state(tiny_config)
    assert folder.load_checkpoint(fresh, {}) == 20
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.model.parameters(), trainee.model.parameters(), strict=True)
    )
    theirs, ours = trainee.optimizer.state_dict()["state"], fresh.optimizer.state_dict()["state"]
    assert theirs.keys() == ours.keys()
    for key in theirs:
        assert all(torch.equal(theirs[key][name], ours[key][name]) for name in theirs[key])


def test_the_newest_checkpoints_and_every_nth_are_kept(folder, tiny_config, trainee):
    folder.create(dataclasses.replace(tiny_config, keep_checkpoints=2, keep_every=20), resume=True)
    (folder.checkpoints / "step-best").mkdir(parents=True)
    for step in range(10, 80, 10):
        folder.save_checkpoint(step, trained_to(step, trainee), {})
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == ["step-000020", "step-000040", "step-000060", "step-000070", "step-best"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "config.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, tiny_config, trainee, file):
    folder.create(dataclasses.replace(tiny_config, keep_checkpoints=2), resume=True)
    for step in (10, 20):
        folder.save_checkpoint(step, trained_to(step, trainee), {})
    damaged = folder.checkpoints / "step-000020" / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    fresh = new_state(tiny_config)
    with pytest.warns(UserWarning, match=r"cannot read .*step-000020.*; the run goes on from step-000010"):
        assert folder.load_checkpoint(fresh, {}) == 10
    # The run then comes to step 20 again.
    folder.save_checkpoint(20, trained_to(20, trainee), {})
    assert folder.load_checkpoint(fresh, {}) == 20
    damaged.unlink()
    (folder.checkpoints / "step-000010" / file).unlink()
    with pytest.raises(UserError, match=r"cannot read .*step-000020"):
        folder.load_checkpoint(fresh, {})


@pytest.mark.parametrize("fails_at", range(6))
def test_a_checkpoint_that_fails_half_way_leaves_the_one_before(
    folder, tiny_config, trainee, monkeypatch, fails_at
):
    """The disk fills up at any of the steps of writing."""
    folder.save_checkpoint(10, trainee, {})
    steps = iter(range(100))

    def failing(function):
        def call(*args, **kwargs):
            if next(steps) == fails_at:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(trainee.model, "save_pretrained", failing(trainee.model.save_pretrained))
    monkeypatch.setattr(checkpoint.torch, "save", failing(torch.save))
    monkeypatch.setattr(files, "flush_one", failing(files.flush_one))
    monkeypatch.setattr(files.os, "replace", failing(os.replace))
    with pytest.raises(UserError, match=r"cannot write the checkpoint .*000020: .*No space left"):
        folder.save_checkpoint(20, trainee, {})
    monkeypatch.undo()
    assert folder.newest_checkpoint() == folder.checkpoints / "step-000010"
    assert folder.load_checkpoint(new_state(tiny_config), {}) == 10
    folder.save_checkpoint(20, trainee, {})
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000020"]


def test_what_pytorch_says_of_a_full_disk_is_explained(folder, trainee, monkeypatch):
    def save(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(
        UserError, match=r"000020: the disk has [\d,]+ MiB left, and PyTorch says .*unexpected pos"
    ):
        folder.save_checkpoint(20, trainee, {})


def test_metrics_after_the_checkpoint_are_dropped(folder):
    for step in (5, 10, 15):
        folder.append_metrics({"step": step, "loss": 1.0})
        with folder.metrics_file.open("ab") as file:
            file.write(b'\xff{"step"\nnull\n{"step": "x"}\n')  # damaged
    with folder.metrics_file.open("a") as file:
        file.write('{"step": 20, "lo')  # the power went
    folder.drop_metrics_after(10)
    steps = [json.loads(line)["step"] for line in folder.metrics_file.read_text().splitlines()]
    assert steps == [5, 10]


def test_a_checkpoint_of_another_tower_is_refused(folder, tiny_config, trainee):
    folder.save_checkpoint(10, trainee, {})
    other = new_state(tiny_config, dataclasses.replace(tiny_config.model, depth=2))
    with pytest.raises(UserError, match="step-000010 is of another configuration: .*depth=1.*depth=2"):
        folder.load_checkpoint(other, {})


def test_a_checkpoint_is_never_unpickled(folder, tiny_config, trainee):
    folder.save_checkpoint(10, trainee, {})
    state_file = folder.checkpoints / "step-000010" / "state.pt"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(folder.path / "exploded"),))

    torch.save({"step": 10, "optimizer": Bomb()}, state_file)
    (state_file.parent / "manifest.json").unlink()
    with pytest.raises(UserError, match="cannot read .*state.pt: Weights only load failed"):
        folder.load_checkpoint(new_state(tiny_config), {})
    assert not (folder.path / "exploded").exists()


def test_a_users_copies_of_checkpoints_stay(folder, trainee):
    folder.save_checkpoint(10, trainee, {})
    first = folder.checkpoints / "step-000010"
    shutil.copytree(first, folder.checkpoints / "step-best")
    first.rename(folder.path / "elsewhere")
    first.symlink_to(folder.path / "elsewhere")
    (folder.checkpoints / "unfinished-step-000007").mkdir()  # a process was killed
    folder.save_checkpoint(20, trainee, {})
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step-000020", "step-best"]
    assert (folder.path / "elsewhere" / "state.pt").is_file()


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
def test_a_flipped_bit_is_found(folder, tiny_config, trainee, name):
    folder.save_checkpoint(10, trainee, {})
    file = folder.checkpoints / "step-000010" / name
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged: its checksum is not the one in manifest.json"):
        folder.load_checkpoint(new_state(tiny_config), {})


def moments(state):
    return state["optimizer"]["state"][0]


FORGED = {
    "another step": (lambda s: s.update(step=11), "it is of step 11"),
    "no integer step": (lambda s: s.update(step=True), "it is of step True"),
    "fewer elements": (
        lambda s: moments(s).update(exp_avg=torch.zeros(1)),
        r"optimizer.0.exp_avg must be torch.float32 \(.*\), got torch.float32 \(1,\)",
    ),
    "half precision": (
        lambda s: moments(s).update(exp_avg_sq=moments(s)["exp_avg_sq"].half()),
        "optimizer.0.exp_avg_sq must be torch.float32 .*, got torch.float16",
    ),
    "transposed": (
        lambda s: s["optimizer"]["state"][1].update(exp_avg=s["optimizer"]["state"][1]["exp_avg"].T),
        "optimizer.1.exp_avg must be",
    ),
    "not finite": (
        lambda s: moments(s)["exp_avg"].view(-1)[:1].fill_(torch.nan),
        "optimizer.0.exp_avg holds values that are not finite",
    ),
    "a number": (lambda s: moments(s).update(exp_avg=torch.zeros(())), "optimizer.0.exp_avg must be"),
    "a count of another type": (
        lambda s: moments(s).update(step=torch.zeros((), dtype=torch.float64)),
        "optimizer.0.step must be torch.float32",
    ),
    "no state": (lambda s: s["optimizer"].update(state={}), "has no state for some parameters"),
    "a negative count": (lambda s: moments(s)["step"].fill_(-5), "optimizer.0.step must be 10, got -5"),
    "a count of its own": (
        lambda s: s["optimizer"]["state"][1]["step"].add_(1),
        "optimizer.1.step must be 10, got 11",
    ),
    "an empty state": (
        lambda s: moments(s).clear(),
        "optimizer.0 must hold step, exp_avg, exp_avg_sq, got nothing",
    ),
    "a state without its moments": (
        lambda s: [moments(s).pop("exp_avg"), moments(s).pop("exp_avg_sq")],
        "optimizer.0 must hold step, exp_avg, exp_avg_sq, got step",
    ),
    "a state of other names": (
        lambda s: moments(s).update({7: torch.zeros(1), "\x1b[2J": torch.zeros(1)}),
        r"optimizer.0 must hold step, exp_avg, exp_avg_sq, got step, .*, 7, \\x1b\[2J",
    ),
    "a negative square": (
        lambda s: moments(s)["exp_avg_sq"].view(-1)[:1].fill_(-1),
        "optimizer.0.exp_avg_sq is a mean of squares and holds negative values",
    ),
    "no tensor": (lambda s: moments(s).update(exp_avg="x"), "optimizer.0.exp_avg must be .*, got 'x'"),
    "no state of some": (lambda s: s["optimizer"]["state"].pop(1), "has no state for some parameters"),
    "other parameters": (
        lambda s: s["optimizer"]["param_groups"].pop(),
        "the optimizer has other parameters",
    ),
    "not a state": (lambda s: s.update(optimizer=3), "cannot read"),
    "another loss": (lambda s: s.update(loss={"bias": torch.zeros(1)}), "loss must hold nothing, got bias"),
    "other data": (
        lambda s: s.update(fingerprints={"data": "b"}),
        "the data are not what .* was trained with",
    ),
}


@pytest.mark.parametrize(("change", "message"), FORGED.values(), ids=FORGED)
def test_a_state_that_does_not_fit_changes_nothing(folder, tiny_config, trainee, change, message):
    folder.save_checkpoint(10, trainee, {"data": "a"})
    file = folder.checkpoints / "step-000010" / "state.pt"
    state = torch.load(file)
    change(state)
    torch.save(state, file)
    (file.parent / "manifest.json").unlink()
    fresh = new_state(tiny_config)
    before = [parameter.clone() for parameter in fresh.model.parameters()]
    with pytest.raises(UserError, match=message):
        folder.load_checkpoint(fresh, {"data": "a"})
    assert all(torch.equal(a, b) for a, b in zip(fresh.model.parameters(), before, strict=True))
    assert not fresh.optimizer.state


def test_a_state_with_strides_of_its_own_is_copied(folder, tiny_config, trainee):
    """Moments that repeat one element have the right shape, and a fused step would write past them."""
    folder.save_checkpoint(10, trainee, {})
    file = folder.checkpoints / "step-000010" / "state.pt"
    state = torch.load(file)
    moments(state)["exp_avg"] = torch.zeros(1).expand(moments(state)["exp_avg"].shape)
    torch.save(state, file)
    (file.parent / "manifest.json").unlink()
    fresh = new_state(tiny_config)
    folder.load_checkpoint(fresh, {})
    assert all(
        value.is_contiguous() for values in fresh.optimizer.state.values() for value in values.values()
    )


def test_a_checkpoint_that_was_removed_half_way_is_removed(folder, tiny_config, trainee):
    """Also by a resume that writes no other checkpoint."""
    folder.save_checkpoint(20, trainee, {})
    (folder.checkpoints / "step-000010").mkdir()
    (folder.checkpoints / "step-000010" / "state.pt").write_bytes(b"")
    folder.create(tiny_config, resume=True)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000020"]


def test_a_description_of_no_renderer_is_said(tiny_config):
    model = Clippo(tiny_config.model)
    model.text_input.description = {"renderer": "os.system", "options": {}}
    with pytest.raises(UserError, match="cannot draw text for this model: not the description of a renderer"):
        with_renderer(model)
