# One image for all daemons and afsctl; docker-compose.yml says what each container runs.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python3 -m venv /opt/venv /opt/build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --no-deps -r requirements-build.lock \
    && /opt/venv/bin/python -m pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md ./
COPY afs afs
COPY afsd afsd
COPY volserverd volserverd
COPY clientd clientd
COPY afsctl afsctl
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheel \
    && /opt/venv/bin/python -m pip install --no-cache-dir --no-deps /wheel/*.whl \
    && /opt/venv/bin/python -m pip uninstall --quiet --yes pip setuptools

FROM ${BASE_IMAGE} AS daemons
# /afs is where a client mounts the cell.
RUN groupadd --gid 7000 afs && useradd --uid 7000 --gid afs --create-home afs \
    && install -d -o afs -g afs /run/afs /partitions /cache /vldb /afs
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 AFS_LOG_FORMAT=json
USER afs
WORKDIR /home/afs
STOPSIGNAL SIGTERM
CMD ["afsctl", "--help"]

# The same, with a gRPC command line that is not ours.
FROM daemons AS toolbox
COPY --from=build /opt/build/bin/buf /usr/local/bin/buf
CMD ["sleep", "infinity"]

FROM daemons
