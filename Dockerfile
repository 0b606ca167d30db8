# The gateway, light: no torch. `--build-arg EXTRAS=demo --build-arg TORCH=torch==2.13.0` adds the demo fleet,
# EXTRAS=onnx the ONNX encoder (several: EXTRAS=onnx,learn).
# Pinned by version; for builds that never change, pin its digest too: PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=
ARG TORCH=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/tokamak
WORKDIR /src
COPY constraints.txt pyproject.toml ./
# What changes rarely comes first, so that a change of the code installs nothing again.
RUN if [ -n "$TORCH" ]; then /opt/tokamak/bin/pip install -c constraints.txt "$TORCH"; fi \
 && python3 -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; extras = os.environ['EXTRAS'].split(','); print(*p['dependencies'], *(need for extra in extras if extra for need in p['optional-dependencies'][extra]), sep='\n')" > needed.txt \
 && /opt/tokamak/bin/pip install -c constraints.txt -r needed.txt
COPY . .
RUN /opt/tokamak/bin/pip install -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin tokamak \
 && install -d -o tokamak -g tokamak /data /etc/tokamak
COPY --from=build /opt/tokamak /opt/tokamak
COPY deploy/container.config.yaml /etc/tokamak/config.yaml
ENV PATH=/opt/tokamak/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TOKAMAK_CONFIG=/etc/tokamak/config.yaml
USER 10001
WORKDIR /data
VOLUME /data
# 8400 is the OpenAI-compatible API. 8401 is the admin API: publish it on loopback only, or not at all.
EXPOSE 8400 8401
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8400/health', timeout=2).read()"]
ENTRYPOINT ["tokamak"]
CMD ["serve"]
