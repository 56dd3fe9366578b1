#!/bin/sh
echo "$GREETING, $NAME, from $PWD"
