# The archive from the same Debian packages that the tests run against.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends orthanc orthanc-dicomweb orthanc-postgresql curl \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o orthanc -g orthanc /var/lib/orthanc/db
COPY docker/orthanc.json /etc/orthanc-transunet.json
EXPOSE 8042
USER orthanc
ENTRYPOINT ["Orthanc", "/etc/orthanc-transunet.json"]
