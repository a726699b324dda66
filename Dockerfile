# swanci with git, the docker client, and buildx if the base image has a package.
#
#   docker build -t swanci .
#
# BASE and RUST are the base images. BINARY is the stage or image that has /swanci: to skip the compilation (with
# BuildKit), set it to an image that contains the binary.
ARG RUST=rust:1-slim-trixie
ARG BASE=debian:trixie-slim
ARG BINARY=build

FROM ${RUST} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests tests
RUN cargo build --release --locked && install -m 755 target/release/swanci /swanci

FROM ${BINARY} AS binary

FROM ${BASE}
# bookworm has the client in docker.io only, and no buildx
RUN set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update; \
    packages='ca-certificates curl git git-lfs openssh-client'; \
    if apt-cache show docker-cli >/dev/null 2>&1; then packages="$packages docker-cli"; else packages="$packages docker.io"; fi; \
    if apt-cache show docker-buildx >/dev/null 2>&1; then packages="$packages docker-buildx"; fi; \
    apt-get install -y --no-install-recommends $packages; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    groupadd --system --gid 10001 swanci; \
    useradd --no-create-home --uid 10001 --gid 10001 --home-dir /var/lib/swanci --shell /usr/sbin/nologin swanci; \
    install -d -o swanci -g swanci -m 0700 /var/lib/swanci; \
    install -d -o root -g swanci -m 0750 /etc/swanci
COPY --from=binary /swanci /usr/bin/swanci
ENV HOME=/var/lib/swanci SWANCI_STATE_DIR=/var/lib/swanci SWANCI_CONFIG=/etc/swanci/swanci.toml
USER 10001:10001
VOLUME /var/lib/swanci
EXPOSE 8080
ENTRYPOINT ["/usr/bin/swanci"]
CMD ["serve"]
