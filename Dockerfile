# syntax=docker/dockerfile:1
# Two targets of one build: `runtime` (head, control, runners) and `vllm` (model workers).
#   docker build --target runtime -t raysmith:0.1.0-ray2.60.0 .
#   docker build --target vllm -t raysmith-vllm:0.1.0-ray2.60.0 .
# The base is named by tag to be readable; production builds pass PYTHON_IMAGE=python@sha256:… and production overlays
# name our images by digest.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# What differs from `runtime` only while building stays out of it.
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/raysmith
ENV PATH=/opt/raysmith/bin:$PATH
WORKDIR /src
COPY . .
RUN pip install -c constraints.txt ".[postgres,gcs]"
# Ray's nodes only talk to their own version: a pin that moved without this line and the manifests stops the build here.
ARG RAY_VERSION=2.60.0
RUN python -c "import ray; assert ray.__version__ == '${RAY_VERSION}', ray.__version__"

FROM ${PYTHON_IMAGE} AS runtime
# bubblewrap and libseccomp2 are the sandbox; tini is process 1; git lists the files of work trees; KubeRay's probes
# call wget, and Ray reads procps' tools when it reports.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap ca-certificates git libseccomp2 procps tini wget \
 && rm -rf /var/lib/apt/lists/*
# Kubernetes checks runAsNonRoot against a number, so USER below is one. A login shell forgets ENV, and KubeRay can be
# told to use one: hence the profile.
RUN groupadd --gid 1000 raysmith \
 && useradd --uid 1000 --gid 1000 --create-home raysmith \
 && install -d -o 1000 -g 1000 /var/lib/raysmith \
 && echo 'export PATH=/opt/raysmith/bin:$PATH' > /etc/profile.d/raysmith.sh
COPY --from=build /opt/raysmith /opt/raysmith
COPY configs/*.yaml /etc/raysmith/
# No .pyc files: the root filesystem is read-only in the cluster.
ENV PATH=/opt/raysmith/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAYSMITH_HOME=/var/lib/raysmith \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /app
USER 1000:1000
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
CMD ["raysmith", "--help"]

# The same with vLLM. Constraints hold Ray alone: vLLM names its own versions of nearly everything else.
FROM build AS build-vllm
RUN pip freeze | grep -iE '^ray==' > /tmp/ray.txt \
 && pip install -c /tmp/ray.txt ".[postgres,gcs,vllm]"

FROM runtime AS vllm
USER 0
# Triton compiles small launchers when the engine starts.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-vllm /opt/raysmith /opt/raysmith
# The driver comes from the node: GKE mounts its libraries there.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
