#!/usr/bin/env bash
# Set up Glassbox in an environment of its own.
#
#   ./setup.sh                      a virtual environment in .venv, with the PyTorch that pip chooses
#   ./setup.sh --conda              a conda environment named glassbox instead
#   ./setup.sh --cpu | --cuda       refuse to go on with a PyTorch that is not of that kind
#
# On Linux pip chooses PyTorch's CUDA build, some gigabytes. For another one, set TORCH_INDEX to the
# --index-url that PyTorch's selector (https://pytorch.org/get-started/locally/) shows for your
# system, or install PyTorch into the environment first: what is there is kept.
#   PYTHON=python3.12   the Python that the virtual environment is made with
#   ENVIRONMENT=NAME    its folder (.venv), or the name of the conda environment (glassbox)
set -euo pipefail
cd "$(dirname "$0")"

manager=venv kind=any
for option in "$@"; do
    case $option in
        --conda) manager=conda ;;
        --cpu | --cuda) kind=${option#--} ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
        *) echo "setup.sh: unknown option '$option'; --help shows them all" >&2; exit 2 ;;
    esac
done

if [ "$manager" = conda ]; then
    name=${ENVIRONMENT:-glassbox}
    command -v conda >/dev/null || { echo "setup.sh: there is no conda; leave out --conda" >&2; exit 2; }
    conda env list | grep -qE "^$name[[:space:]]" || conda create --yes --name "$name" python=3.12 pip
    run() { conda run --no-capture-output --name "$name" "$@"; }
    activate="conda activate $name"
else
    folder=${ENVIRONMENT:-.venv}
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "setup.sh: Glassbox needs Python 3.10 or newer; name one: PYTHON=python3.12 ./setup.sh" >&2; exit 2; }
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    run() { "$folder/bin/$1" "${@:2}"; }
    activate="source $folder/bin/activate"
fi

if ! run python -c 'import torch' 2>/dev/null; then
    if [ -n "${TORCH_INDEX:-}" ]; then
        run python -m pip install --index-url "$TORCH_INDEX" "torch>=2.8,<2.14"
    elif [ "$kind" = cpu ] && [ "$(uname -s)" = Linux ]; then
        echo "setup.sh: pip would choose PyTorch's CUDA build; set TORCH_INDEX to the --index-url that" >&2
        echo "  https://pytorch.org/get-started/locally/ shows for pip and CPU, and run this again" >&2
        exit 2
    fi
fi
# shellcheck disable=SC2046  # an option and its value
run python -m pip install $(run python constraints/resolve.py option) -r requirements.txt

built=$(run python -c 'import torch; print("cuda" if torch.version.cuda else "cpu")')
if [ "$kind" != any ] && [ "$kind" != "$built" ]; then
    echo "setup.sh: PyTorch here is of kind '$built', not '$kind'; remove it (pip uninstall torch) and run this again" >&2
    exit 1
fi
run glassbox --version
echo "Ready, with PyTorch for $built. Go on with: $activate && glassbox quickstart --fast"
