"""The Slurm script runs, on stand-ins for Slurm's commands, and the Dockerfile fits the repository."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLURM, DOCKERFILE = ROOT / "scripts" / "slurm.sh", ROOT / "Dockerfile"
SCRIPTS = sorted(ROOT.glob("scripts/*.sh"))

# As srun does with proctrack/cgroup: signals reach the process that it began on each node, not its children.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
nodes = [subprocess.Popen(command) for _ in range(int(os.environ["SLURM_JOB_NUM_NODES"]))]
for node in nodes:
    open(f"{os.environ['LOG']}/node-{node.pid}", "w").close()
def forward(number, frame):
    for node in nodes:
        node.send_signal(number)
signal.signal(signal.SIGUSR1, forward)
sys.exit(max(abs(node.wait()) for node in nodes))
"""

SCONTROL = """
import os, sys
if sys.argv[1] == "show":
    print("node1", "node2", sep="\\n")
else:
    with open(os.environ["LOG"] + "/scontrol", "a") as log:
        log.write(" ".join(sys.argv[1:]) + "\\n")
"""

# It begins two workers, and ends of a USR1 that reaches itself, as torchrun does.
TORCHRUN = """
import json, os, subprocess, sys
with open(f"{os.environ['LOG']}/torchrun-{os.getpid()}.json", "w") as log:
    json.dump(sys.argv[1:], log)
workers = [subprocess.Popen([sys.executable, os.environ["WORKER"], *sys.argv[1:]]) for _ in range(2)]
sys.exit(max(worker.wait() for worker in workers))
"""

# It trains until it is killed, if the job is new, and saves a checkpoint on USR1.
WORKER = """
import os, pathlib, signal, sys, time
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--out") + 1])
ending = os.environ.get("ENDING")
def receive(number, frame):
    log("usr1")
    if ending == "done":
        sys.exit(0)
    time.sleep(0.3)
    (folder / "checkpoints" / "step-000020").mkdir(parents=True, exist_ok=True)
def log(name):
    pathlib.Path(os.environ["LOG"], f"{name}-{os.getpid()}").touch()
signal.signal(signal.SIGUSR1, receive)
log("ready")
if "--resume" in arguments:
    sys.exit(0)
if ending == "error":
    sys.exit(3)
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def job(tmp_path):
    """Starts the script as Slurm does, with stand-ins on the PATH; all ends with the test."""
    if not sys.platform.startswith("linux") or not shutil.which("pkill"):
        pytest.skip("Slurm runs on Linux, and its nodes have pkill")
    processes = []

    def start(*arguments: str | Path, torchrun: str = TORCHRUN, **environment: str) -> subprocess.Popen:
        stand_ins = {"srun": SRUN, "scontrol": SCONTROL, "torchrun": torchrun}
        for name, source in stand_ins.items():
            file = tmp_path / "bin" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"#!{sys.executable}\n{source}")
            file.chmod(0o755)
        (tmp_path / "worker.py").write_text(WORKER)
        (tmp_path / "log").mkdir(exist_ok=True)
        own = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"), "WORKER": str(tmp_path / "worker.py"),
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4",
        }  # fmt: skip
        command = ["bash", SLURM, *map(str, arguments)]
        with (tmp_path / "out.txt").open("a") as out:
            process = subprocess.Popen(command, env=os.environ | own | environment, stdout=out, stderr=out)
        processes.append(process)
        return process

    yield start
    for process in processes:
        end(process, tmp_path)


def end(process: subprocess.Popen, folder: Path) -> None:
    """End a job and all that it began, as Slurm does. torchrun begins workers in sessions of their own."""
    mark = f"LOG={folder / 'log'}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if mark in (path / "environ").read_bytes().split(b"\0"):
                os.kill(int(path.name), signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def logged(folder: Path, name: str) -> list[Path]:
    return [*(folder / "log").glob(f"{name}-*")]


@pytest.mark.slow
def test_a_job_saves_goes_back_into_the_queue_and_goes_on(job, tmp_path):
    flags = ["--data", "folder:two words/*.jpg", "--note", "a 'quoted' $HOME"]
    process = job("own", tmp_path / "my run", *flags)
    wait_until(lambda: len(logged(tmp_path, "ready")) == 4)
    process.send_signal(signal.SIGUSR1)  # to the shell of the batch alone, as B: says
    wait_until(lambda: (tmp_path / "log" / "scontrol").exists())
    assert (tmp_path / "log" / "scontrol").read_text() == "requeue 4711\n"
    assert len(logged(tmp_path, "usr1")) == 4  # two workers on two nodes
    assert (tmp_path / "my run" / "checkpoints" / "step-000020").is_dir()
    assert process.poll() is None  # Slurm ends it; all still trains
    end(process, tmp_path)

    again = job("own", tmp_path / "my run", *flags, SLURM_RESTART_COUNT="1")
    assert again.wait(20) == 0
    assert (tmp_path / "log" / "scontrol").read_text() == "requeue 4711\n"
    calls = sorted(map(json.loads, (file.read_text() for file in logged(tmp_path, "torchrun"))), key=len)
    assert calls[0] == calls[1] == [
        "--nnodes=2", "--nproc-per-node=8", "--rdzv-id=4711", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node1:24711", "-m", "clippo", "train", "own",
        "--out", str(tmp_path / "my run"), *flags,
    ]  # fmt: skip
    assert calls[2] == calls[3] == [*calls[0], "--resume"]


@pytest.mark.slow
def test_a_run_that_ends_by_itself_is_not_put_back(job, tmp_path):
    process = job("own", tmp_path / "run", ENDING="done")
    wait_until(lambda: len(logged(tmp_path, "ready")) == 4)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert job("own", tmp_path / "run", ENDING="error").wait(20) == 3
    assert not (tmp_path / "log" / "scontrol").exists()


def test_a_job_without_a_folder_is_refused(job, tmp_path):
    assert job("own").wait(20) == 2
    assert "usage: sbatch" in (tmp_path / "out.txt").read_text()


@pytest.mark.long
def test_the_signal_reaches_the_processes_of_torchrun(job, tmp_path):
    """Two processes train the emoji recipe, and go on from the checkpoint that they were asked for."""
    pytest.importorskip("torch.distributed.run")
    torchrun = """
import os, re, sys
arguments = [re.sub("endpoint=.*:", "endpoint=localhost:", argument) for argument in sys.argv[1:]]
os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *arguments])
"""
    sizes = {"width": 32, "depth": 1, "mlp-dim": 64, "num-heads": 2}
    arguments = [
        "emoji", tmp_path / "run", *(f"--model.{name}={value}" for name, value in sizes.items()),
        "--batch-size", "16", "--workers", "0", "--checkpoint-every", "1000000", "--steps", "1000000",
        "--log-every", "10",
    ]  # fmt: skip
    own = {
        "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(os.getpid()), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    checkpoints, metrics = tmp_path / "run" / "checkpoints", tmp_path / "run" / "metrics.jsonl"
    requeued = tmp_path / "log" / "scontrol"

    def saved_steps() -> list[int]:
        return sorted(int(path.name[5:]) for path in checkpoints.glob("step-*"))

    for run in range(2):
        process = job(*arguments, torchrun=torchrun, SLURM_RESTART_COUNT=str(run), **own)
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
        wait_until(lambda n=lines: metrics.exists() and metrics.read_text().count("\n") > n + 1, 90)
        assert len(saved_steps()) == run
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda n=run: len(saved_steps()) == n + 1, 90)
        wait_until(lambda n=run: requeued.exists() and requeued.read_text().count("requeue") == n + 1)
        end(process, tmp_path)
    first, second = saved_steps()

    for ended in logged(tmp_path, "node"):
        ended.unlink()
    process = job(*arguments, torchrun=torchrun, SLURM_RESTART_COUNT="2", **own)
    lines = metrics.read_text().count("\n")
    wait_until(lambda: metrics.read_text().count("\n") > lines + 1, 90)
    for node in logged(tmp_path, "node"):
        for _ in range(2):  # as by two calls of scancel
            os.kill(int(node.name.removeprefix("node-")), signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert saved_steps()[0] == second  # and one that is newer; two are kept
    assert requeued.read_text().count("requeue") == 2

    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [*range(10, steps[-1] + 1, 10)]  # each run began where the one before had saved
    assert {first, second} < {*steps}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_mistakes_that_a_shell_can_see(script):
    shell = script.read_text().splitlines()[0].removeprefix("#!/bin/")
    assert shell in ("sh", "bash")
    checks = [[shell, "-n", script]]
    if shutil.which("shellcheck") and script == SLURM:
        checks.append(["shellcheck", script])
    for check in checks:
        result = subprocess.run(check, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_lowest_version_of_every_package_is_known():
    """Otherwise `make test-lowest` takes the oldest version that was ever released."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    own = project["name"]
    assert [line for group in groups for line in group if ">=" not in line and not line.startswith(own)] == []


def test_slurm_reads_the_options_of_the_script():
    head, _, body = SLURM.read_text().partition("\nset -euo pipefail\n")
    assert all(line.startswith("#") for line in head.splitlines())  # a command would end the options
    assert "#SBATCH" not in body
    lines = [line.removeprefix("#SBATCH ") for line in head.splitlines() if line.startswith("#SBATCH")]
    options = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", line) for line in lines)
    assert len(options) == len(lines)
    receiver, name, seconds = re.fullmatch(r"(B):(\w+)@(\d+)", options["signal"]).groups()
    assert (receiver, name) == ("B", "USR1")
    assert int(re.search(r"\{1\.\.(\d+)\}", body)[1]) < int(seconds)  # the wait for the checkpoint
    assert options["ntasks-per-node"] == "1"  # torchrun begins the others
    assert options["gpus-per-node"] == "8"
    assert "requeue" in options
    assert options["open-mode"] == "append"  # or a job that goes on would empty its log


# -- Dockerfile


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile and their arguments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    known = {"FROM", "RUN", "ARG", "COPY", "USER", "WORKDIR", "ENTRYPOINT"}
    assert {name for name, _ in found} == known
    return found


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_the_dockerfile_has_no_mistakes_that_a_linter_can_see():
    result = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_image_copies_all_that_the_package_is_made_of():
    copies = [shlex.split(arguments) for arguments in arguments_of("COPY")]
    sources = {source for *sources, _ in copies for source in sources}
    assert all((ROOT / source).exists() for source in sources)
    links = {
        os.path.relpath(path.resolve(), ROOT) for path in (ROOT / "clippo").iterdir() if path.is_symlink()
    }
    assert sources == {"pyproject.toml", "README.md", "LICENSE", "clippo", "clippo_kernels", *links}


def test_the_image_pins_its_base_and_pytorch_as_the_set_up_does():
    (base,) = arguments_of("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-bookworm", base)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={version}"
    setup = (ROOT / "scripts" / "setup.sh").read_text()
    assert arguments_of("ARG") == ["TORCH=" + re.search(r'TORCH="\$\{TORCH:-(.*)\}"', setup)[1]]


def test_the_image_installs_the_packages_that_the_set_up_does():
    (run,) = [arguments for arguments in arguments_of("RUN") if "apt-get" in arguments]
    command = next(part for part in run.split("&&") if "apt-get install" in part)
    installed = {word for word in shlex.split(command)[2:] if not word.startswith("-")}
    needed = set(re.findall(r'missing="\$missing (\S+)"', (ROOT / "scripts" / "setup.sh").read_text()))
    assert (
        needed - {"python3-venv", "unicode-cldr-core"} <= installed
    )  # the image has no venv and no benchmarks
    documented = (ROOT / "docs" / "training.md").read_text()
    assert all(f"`{name}`" in documented for name in installed - needed)


def test_the_image_runs_the_program_as_a_user_who_is_not_root():
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    (user,) = arguments_of("USER")
    assert any(f"useradd --create-home --uid {user} clippo" in run for run in arguments_of("RUN"))
    assert int(user) > 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (entrypoint,) = map(json.loads, arguments_of("ENTRYPOINT"))
    assert set(entrypoint) <= project["scripts"].keys()
    (install,) = [run for run in arguments_of("RUN") if "/src[" in run]
    extras = re.search(r"/src\[(.*?)\]", install)[1].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
