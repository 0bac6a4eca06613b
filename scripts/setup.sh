#!/bin/sh
# Set up .venv, and the system packages that it cannot hold. Called by make; quick when nothing is missing.
# With LOWEST=1 it sets up .venv-lowest instead, with the lowest versions that pyproject.toml allows.
set -eu
PYTHON="${PYTHON:-python3}"
TORCH="${TORCH:-torch==2.13.0}"
VENV=.venv${LOWEST:+-lowest}

fail() {
    echo "setup: $1" >&2
    exit 1
}

has_library() { "$PYTHON" -c "import ctypes; ctypes.CDLL('$1')" 2>/dev/null; }

has_font() {
    # A folder of CLIPPO_FONT_PATH may hold it too: the same places as renderer/fonts.py looks in.
    OLD_IFS=$IFS; IFS=:
    for folder in ${CLIPPO_FONT_PATH:-} /usr/share/fonts /usr/local/share/fonts /usr/share/unifont \
        "$HOME/.fonts" "$HOME/.local/share/fonts"; do
        if [ -d "$folder" ] && [ -n "$(find "$folder" -name "$1" -print -quit)" ]; then IFS=$OLD_IFS; return 0; fi
    done
    IFS=$OLD_IFS
    return 1
}

# -- system packages
missing=""
command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.11 or newer, or set PYTHON"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$PYTHON" --version) is too old; 3.11 is needed"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
has_library libEGL.so.1 || missing="$missing libegl1"
has_library libGL.so.1 || missing="$missing libgl1"
has_library libexpat.so.1 || missing="$missing libexpat1"
has_font unifont.otf && has_font unifont_upper.otf || missing="$missing fonts-unifont"
has_font unifont.hex || missing="$missing unifont"
has_font NotoColorEmoji.ttf || missing="$missing fonts-noto-color-emoji"
# Benchmarks draw captions made of the words of the CLDR.
[ -z "${BENCH:-}" ] || [ -d /usr/share/unicode/cldr/common ] || missing="$missing unicode-cldr-core"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then sudo=""; else sudo="sudo"; fi
    by_hand="$sudo apt-get install --no-install-recommends$missing"
    command -v apt-get >/dev/null || fail "missing; install what your system calls these Debian packages:$missing"
    if [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; then fail "missing; run: $by_hand"; fi
    echo "setup: installing$missing"
    $sudo apt-get update -qq || true # a stale list may still do
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        fail "apt-get failed; run: $by_hand"
fi

# `make test` opens the page of `clippo demo` in Chromium; where that cannot be had, those tests are skipped.
has_chromium() {
    for name in chromium chromium-browser google-chrome; do command -v $name >/dev/null && return 0; done
    return 1
}
if [ -n "${CHROMIUM:-}" ] && ! has_chromium && command -v apt-get >/dev/null; then
    if [ "$(id -u)" = 0 ]; then sudo=""; else sudo="sudo -n"; fi
    echo "setup: installing chromium"
    { $sudo apt-get update -qq || true; } 2>/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 ||
        echo "setup: apt-get cannot install chromium; the tests in a browser will be skipped" >&2
fi

# -- $VENV; the stamp inside is written last, so that an interrupted set-up is done again
wanted="$TORCH $("$PYTHON" --version) $(cksum <pyproject.toml)"
[ "$(cat $VENV/ready 2>/dev/null || true)" = "$wanted" ] && exit 0
echo "setup: making $VENV"
# A PyTorch that the machine has already, with CUDA for instance, is used as it is.
has_torch() {
    "$1" -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' 2>/dev/null
}
if [ -n "${LOWEST:-}" ]; then
    "$PYTHON" -m venv $VENV
    $VENV/bin/python -m pip install --quiet uv # pip itself takes the newest versions only
    $VENV/bin/uv pip install --quiet --python $VENV/bin/python --resolution lowest-direct \
        --editable '.[dev,bench,track]'
else
    if has_torch "$PYTHON"; then packages=--system-site-packages; else packages=""; fi
    "$PYTHON" -m venv $packages $VENV
    has_torch $VENV/bin/python || $VENV/bin/python -m pip install --quiet "$TORCH"
    $VENV/bin/python -m pip install --quiet --editable '.[dev,bench,docs]'
fi
echo "$wanted" >$VENV/ready
