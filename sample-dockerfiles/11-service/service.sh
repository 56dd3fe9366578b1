#!/bin/sh
# Serve /www on the port given until SIGINT, the STOPSIGNAL of this image.
trap 'echo "stopping"; kill $server; exit 0' INT
httpd -f -p "127.0.0.1:$1" -h /www &
server=$!
echo "serving on $1"
while :; do sleep 1 & wait $!; done
