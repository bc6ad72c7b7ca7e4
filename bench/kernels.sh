#!/usr/bin/env bash
# Times every kernel of the CPU device, on one thread and on all, beside what this machine allows. With an argument: only
# the kernels whose names match this regular expression. Usage: bench/kernels.sh [REGEX]
set -euo pipefail
cd "$(dirname "$0")/.."
. ./.mvn/find-jdk
./build -q -pl cpu -am -DskipTests test-compile dependency:build-classpath -Dmdep.outputFile=target/classpath
out=cpu/target/benchmark
classes=cpu/target/test-classes:cpu/target/classes:$(cat cpu/target/classpath)
rm -rf "$out"
mkdir -p "$out"
# JMH's processor writes the code around the benchmark and compiles it.
"$JAVA_HOME/bin/javac" -proc:full -processor org.openjdk.jmh.generators.BenchmarkProcessor -nowarn --add-modules jdk.incubator.vector \
  -d "$out" -cp "$classes" cpu/src/test/java/troika/cpu/KernelBenchmark.java 2>&1 | { grep -v -e incubator -e '^1 warning' || true; }
exec "$JAVA_HOME/bin/java" @app/src/dist/java-flags --sun-misc-unsafe-memory-access=allow \
  -cp "$out:$classes" troika.cpu.KernelBenchmark "$@"
