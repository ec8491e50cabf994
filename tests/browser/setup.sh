#!/bin/sh
# Installs Chromium where there is none: Debian's package as root, otherwise it says what to do.
set -e
for name in "${TAGMOE_CHROMIUM:-chromium}" chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null
else
    echo "no Chromium found: install the package chromium, or set TAGMOE_CHROMIUM to a browser's path" >&2
    exit 2
fi
