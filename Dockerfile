# docker build --tag keras_compress .
# BASE is any Debian-like image with Python 3.11 to 3.13, pip and venv.
ARG BASE=python:3.12-slim
FROM ${BASE}

# Debian's own Python takes no packages from elsewhere: an environment of its own serves every base.
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# The dependencies, in a layer that is built again only when setup.cfg changes.
WORKDIR /app
COPY setup.cfg ./
RUN python -c "import configparser as c; p = c.RawConfigParser(); p.read('setup.cfg'); print(p['options']['install_requires'])" \
        > /tmp/requirements.txt \
    && pip install --no-cache-dir --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . ./
RUN pip install --no-cache-dir --no-deps --editable .

# `docker run --user UID:GID` brings a user that has no home and owns nothing here: caches go to /tmp, results to folders
# that everybody may write to, mounted or not.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
RUN mkdir serialized_models quantized_models train_logs model_metrics \
    && chmod 1777 serialized_models quantized_models train_logs model_metrics
USER 1000:1000

CMD ["python", "quantize/quantize_pretrained.py", "--help"]
