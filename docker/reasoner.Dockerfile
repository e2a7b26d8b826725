# A reasoner. torch comes from the index: on PyPI it is the build for CUDA, which runs on CPUs, too.
#   docker build --file docker/reasoner.Dockerfile --tag tandem-reasoner:0.2.0 .
# Nothing is loaded but Python packages: PIP_INDEX_URL names another index than PyPI. For images that never change,
# give BASE with a digest.
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tandem
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY tandem tandem
COPY bench bench
COPY kv_transfer kv_transfer
COPY encoder_svc encoder_svc
COPY reasoner_svc reasoner_svc
COPY orchestrator orchestrator
RUN /opt/tandem/bin/pip install --constraint constraints.txt ".[model,media,trace]"

FROM ${BASE}
LABEL org.opencontainers.image.title="tandem-reasoner" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/tandem /opt/tandem
ENV PATH=/opt/tandem/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --system --gid 10001 tandem && useradd --system --uid 10001 --gid 10001 --no-create-home tandem
USER 10001:10001
EXPOSE 7432 7440 9400
# The command is the first process: SIGTERM reaches it, and has it drain.
ENTRYPOINT ["tandem"]
CMD ["reasoner", "--help"]
