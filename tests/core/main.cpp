#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "counting.h"

int main(int argc, char** argv) {
  ek::test::count_kernels();  // so that every test may ask what ran
  return doctest::Context(argc, argv).run();
}
