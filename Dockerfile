# progrpo_jax for hosts with GPUs:
#
#   docker build -t progrpo_jax .
#   docker run --gpus all -v "$PWD/runs:/progrpo_jax/runs" progrpo_jax \
#     train --config tiny:progrpo --workdir runs/tiny
#
# The second line needs the policy that `make quickstart` leaves in runs/.
# The CUDA libraries come with JAX; the host needs NVIDIA's driver and its
# container toolkit. For hosts with TPUs: --build-arg EXTRAS=tpu,gcs.
FROM python:3.12-slim

ARG EXTRAS=cuda12,gcs

# A seed of hashes that all hosts share: some logic problems depend on it.
ENV PYTHONHASHSEED=0 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /progrpo_jax

# The tested versions are a layer of their own, which changes seldom.
COPY requirements-3.12.lock ./
RUN pip install --no-deps -r requirements-3.12.lock
COPY setup.py README.md LICENSE ./
COPY progrpo_jax progrpo_jax
COPY configs configs
RUN pip install -c requirements-3.12.lock --no-build-isolation ".[${EXTRAS}]"

ENTRYPOINT ["progrpo"]
CMD ["--help"]
