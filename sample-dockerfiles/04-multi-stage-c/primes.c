#include <stdio.h>
#include <stdlib.h>

static int is_prime(long n) {
  for (long d = 2; d * d <= n; d++)
    if (n % d == 0) return 0;
  return n > 1;
}

int main(int argc, char **argv) {
  long limit = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
  for (long n = 2, first = 1; n <= limit; n++)
    if (is_prime(n)) {
      printf(first ? "%ld" : " %ld", n);
      first = 0;
    }
  printf("\n");
  return 0;
}
