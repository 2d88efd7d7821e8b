# The pipeline as a container, for a machine or a cluster that runs one on a schedule:
#
#     docker build -t ad-game-pipeline .
#     docker run --init --rm -v "$PWD/data:/work/data:ro" -v "$PWD/cache:/work/cache" \
#       -v "$PWD/runs:/work/runs" --user "$(id -u):$(id -g)" ad-game-pipeline --dry-run
#
# It is not built in CI: what the tests hold is this file's text, not its image. Most of the image,
# about 7 GB, is torch with CUDA, which the one lock names for every machine.

FROM python:3.12.11-slim-bookworm AS packages
ENV PIPENV_VENV_IN_PROJECT=1 PIPENV_NOSPIN=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install pipenv==2026.10.3
WORKDIR /work
COPY Pipfile Pipfile.lock ./
RUN pipenv sync --categories packages

FROM python:3.12.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /home/pipeline pipeline \
    && mkdir -p /work/data /work/cache /work/runs \
    && chown -R 10001:10001 /work
WORKDIR /work
COPY --from=packages /work/.venv /work/.venv
COPY . .
ENV PATH="/work/.venv/bin:$PATH" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
VOLUME ["/work/cache", "/work/runs"]
USER 10001:10001
ENTRYPOINT ["python", "run_pipeline.py"]
