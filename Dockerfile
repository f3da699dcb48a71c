# One image for the four processes; compose.yaml and platforms choose which by the command.
FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /app
COPY pyproject.toml README.md ./
COPY bench bench
COPY cli cli
COPY data_engine_x data_engine_x
COPY events events
COPY gateway gateway
COPY migrations migrations
COPY projections projections
COPY services services
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN uv sync --no-dev --no-editable --extra otlp

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /app app
WORKDIR /app
COPY --from=build --chown=app /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 DATA_ENGINE_LOG_FORMAT=json DATA_ENGINE_HOST=0.0.0.0
USER app
STOPSIGNAL SIGTERM
ENTRYPOINT ["dex"]
CMD ["gateway"]
