# docker buildx build --platform linux/amd64,linux/arm64 --build-arg COMMIT="$(git rev-parse HEAD)" --tag REPOSITORY:TAG --push .
#
# docs/image.md says what is in it, how large it is, and what of this is tested.

FROM rust:1.95.0-slim-bookworm AS build
# A C compiler for the cryptography (aws-lc), and the certificates for the image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates cmake g++ make \
    && rm --recursive /var/lib/apt/lists
WORKDIR /src
COPY . .
ARG TARGETARCH
ARG COMMIT=
ARG SOURCE_DATE_EPOCH=0
# Paths of the build must not show in the binary.
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo" \
    GHARTS_LISTENER_COMMIT=$COMMIT
# Without the simulated world: that is for a person's machine.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=target-$TARGETARCH \
    cargo build --locked --profile dist --no-default-features --bin gharts-listener \
    && image/root.sh target/dist/gharts-listener /image

FROM scratch
COPY --from=build /image /
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/gharts-listener"]
CMD ["run"]
