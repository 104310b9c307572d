# Lensmith and Ray, for every machine of a cluster: a CPU or an NVIDIA GPU.
#
#   docker build -f deploy/ray.Dockerfile -t lensmith-ray .
#
# PyPI's torch for Linux contains CUDA and also runs on a CPU, in an image of several gigabytes. For a small image, give
# pip the index of PyTorch's CPU builds (their installation page names it): --build-arg INDEX=ADDRESS
# The versions of Python, Ray and Lensmith must be those of the machine that starts jobs: --build-arg PYTHON=3.11
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# KubeRay's probes call wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN if [ -n "$INDEX" ]; then pip install --index-url "$INDEX" "torch>=2.11"; else pip install "torch>=2.11"; fi
COPY pyproject.toml README.md LICENSE NOTICE constraints.txt /src/
COPY src /src/src
# The tested versions, of all but torch.
RUN grep -v "^torch==" /src/constraints.txt > /src/tested.txt \
    && pip install --constraint /src/tested.txt "/src[ray,sweep,quantized]" "psycopg[binary]" \
    && useradd --create-home --uid 1000 ray
USER ray
WORKDIR /home/ray
