# A CPU image that serves a model or runs any glassbox command:
#   docker build -t glassbox .
#   docker run --rm -v "$PWD/runs:/work/runs" glassbox quickstart --fast
#   docker run --rm -p 8000:8000 -v "$PWD/runs:/work/runs" glassbox serve runs/quickstart --host 0.0.0.0 --api-key-file runs/keys.txt
# TORCH_INDEX: pip's --index-url for another build of PyTorch (CPU or a CUDA version), from PyTorch's "Get started" page.
FROM python:3.12-slim
ARG TORCH_INDEX=""
RUN useradd --create-home --uid 1000 glassbox
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
COPY recipes ./recipes
COPY constraints ./constraints
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.8,<2.14"; fi \
    && pip install --no-cache-dir -c constraints/py312.txt ".[serve,data,constrain,hub]"
USER glassbox
WORKDIR /work
ENTRYPOINT ["glassbox"]
CMD ["--help"]
