# syntax=docker/dockerfile:1
# barkeep alone: it needs a database and a broker (see docker-compose.yml).
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=unknown
# The SQL parser is C, hence cgo; the runtime image has the same libc.
ENV GOCACHE=/go/build
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/go/build \
    CGO_ENABLED=1 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/barkeep ./cmd/barkeep

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --no-install-recommends --yes ca-certificates tzdata wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home barkeep
COPY --from=build /out/barkeep /usr/local/bin/barkeep
USER barkeep
EXPOSE 5433 8433
ENTRYPOINT ["barkeep"]
CMD ["serve"]
