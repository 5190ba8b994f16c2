# An image with the console command `align`, on a CPU or on CUDA. docs/docker.md shows how to build and run it.
#
# BASE         a Debian or Ubuntu image; Python 3 is installed where it is missing
# TORCH_INDEX  the index that torch comes from; empty for pip's default, whose builds bring CUDA
# EXTRAS       extras of pyproject.toml, such as [tools,annotate]
ARG BASE=python:3.12-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG TORCH_INDEX=""
ARG EXTRAS=""
# hadolint ignore=DL3008
RUN apt-get update \
    && { command -v python3 || apt-get install -y --no-install-recommends python3 python3-venv; } \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/align
ENV PATH=/opt/align/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# torch has a layer of its own, which a change of the code does not make again.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY align align
COPY data_builders data_builders
COPY eval eval
COPY recipes recipes
# hadolint ignore=DL3013
RUN pip install ".${EXTRAS}"

# hadolint ignore=DL3006
FROM ${BASE}
# g++: DeepSpeed and torch.compile build their CPU kernels when they first use them. bubblewrap: the sandbox.
# hadolint ignore=DL3008
RUN apt-get update \
    && { command -v python3 || apt-get install -y --no-install-recommends python3; } \
    && apt-get install -y --no-install-recommends g++ bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 align \
    && install --directory --owner=align /data
COPY --from=build /opt/align /opt/align
ENV PATH=/opt/align/bin:$PATH HF_HOME=/data/huggingface ALIGN_ASSETS=/data/assets
USER 10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["align"]
CMD ["--help"]
