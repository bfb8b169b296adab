# One image for everything: master, workers and the one-shot that makes certificates. It runs as nobody in particular, and needs no root.
#   docker build -t protheon .
#   docker build -t protheon --build-arg BASE_IMAGE=debian-with-python3-and-venv .
# Behind a proxy that signs for package registries: --build-arg CA_FILE=deploy/ours.pem --build-arg PIP_CERT=/tmp/ca.pem
ARG BASE_IMAGE=python:3.12-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
ARG CA_FILE=deploy/no-ca.pem
ARG PIP_CERT=
COPY ${CA_FILE} /tmp/ca.pem
RUN python3 -m venv /opt/protheon
WORKDIR /src
# Dependencies alone, so that a changed line of the package installs nothing else anew.
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
 && /opt/protheon/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY notebooks notebooks
COPY protheon_dask protheon_dask
# pip compiles the modules: with them a process starts in one second instead of four. What nothing runs is left out.
RUN /opt/protheon/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
 && find /opt/protheon/lib -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf /opt/protheon/lib/python3*/site-packages/pip /opt/protheon/lib/python3*/site-packages/setuptools
COPY deploy/container.py /opt/protheon/bin/protheon-container

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
# The directories are made here with their owner: a new volume takes both over.
RUN groupadd --system --gid 10001 protheon \
 && useradd --system --uid 10001 --gid protheon --no-create-home --home-dir /var/lib/protheon --shell /usr/sbin/nologin protheon \
 && install -d -m 0700 -o protheon -g protheon /var/lib/protheon /run/protheon/invitation /run/protheon/database \
 && install -d -m 0755 /data
COPY --from=build /opt/protheon /opt/protheon
ENV PATH=/opt/protheon/bin:$PATH \
    HOME=/var/lib/protheon \
    PROTHEON_HOME=/var/lib/protheon \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/protheon
USER 10001:10001
ENTRYPOINT ["protheon"]
CMD ["--help"]
