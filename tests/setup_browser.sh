#!/bin/sh
# Installs headless Chromium and its driver for the report's browser test, where this machine allows
# it (Debian or Ubuntu, as root). Elsewhere the test finds an installed one or skips with a reason.
command -v chromedriver >/dev/null && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -q && apt-get install -q -y --no-install-recommends chromium chromium-driver; } \
  >/tmp/stepcoder-chromium.log 2>&1 || echo "chromium was not installed (see /tmp/stepcoder-chromium.log)"
exit 0
