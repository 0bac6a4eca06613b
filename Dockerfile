# An image with the clippo program, its fonts, and what the readers of remote and Parquet data need:
#
#   docker build -t clippo .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/runs" clippo train emoji --out /runs/emoji
#
# The wheels of PyTorch bring CUDA. The folder of the runs must be writable for the user 1000.
FROM python:3.11.11-slim-bookworm

# gcc and libc6-dev: Triton compiles the launchers of its kernels. procps: scripts/slurm.sh calls pkill.
# Debian keeps one version of each, so that a pinned one could not be installed after its next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libegl1 libgl1 libexpat1 fonts-unifont unifont fonts-noto-color-emoji gcc libc6-dev procps \
    && rm -rf /var/lib/apt/lists/*

# PyTorch is a layer of its own, which a change of the code leaves as it is.
ARG TORCH=torch==2.13.0
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "$TORCH"

COPY pyproject.toml README.md LICENSE /src/
COPY clippo /src/clippo
COPY clippo_kernels /src/clippo_kernels
COPY model /src/model
COPY renderer /src/renderer
COPY bench /src/bench
RUN pip install --no-cache-dir "/src[hub,parquet,remote,fast]" && rm -r /src

RUN useradd --create-home --uid 1000 clippo
# By number, so that a cluster can see that it is not root.
USER 1000
WORKDIR /home/clippo
ENTRYPOINT ["clippo"]
