# The pipeline as a container, for a machine or a cluster that runs one on a schedule:
#
#     docker build -t ad-game-pipeline .
#     docker run --init --rm -v "$PWD/data:/srv/data:ro" -v "$PWD/cache:/srv/cache" \
#       -v "$PWD/runs:/srv/runs" --user "$(id -u):$(id -g)" ad-game-pipeline --dry-run
#
# It is not built in CI: what the tests hold is this file's text, not its image. Most of the image,
# about 7 GB, is torch with CUDA, which the one lock names for every machine.

FROM python:3.12.11-slim-bookworm AS packages
ENV PIPENV_VENV_IN_PROJECT=1 PIPENV_NOSPIN=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install pipenv==2026.10.3
WORKDIR /srv
COPY Pipfile Pipfile.lock ./
RUN pipenv sync --categories packages

FROM python:3.12.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /home/pipeline pipeline \
    && mkdir -p /srv/data /srv/cache /srv/runs \
    && chown -R 10001:10001 /srv
WORKDIR /srv
COPY --from=packages /srv/.venv /srv/.venv
COPY . .
ENV PATH="/srv/.venv/bin:$PATH" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
VOLUME ["/srv/cache", "/srv/runs"]
USER 10001:10001
ENTRYPOINT ["python", "run_pipeline.py"]
