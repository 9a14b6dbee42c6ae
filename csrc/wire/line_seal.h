// Seals on the lines that a run reports: a program that writes to the board can neither take back a
// line that has run nor claim one.
//
// Every line has a key, which the judge's secret gives. The first time that a line runs in a test,
// its key is added to the seal of that test's bitmap and then replaced by one that it determines,
// but that does not tell it. So the memory of a run holds no key of what has run, and the secret is
// gone before the program's code begins. The judge, who has it, adds up the keys of the lines that
// a bitmap claims. A program that takes over the tracer itself can keep later lines from being
// noted.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace stepcoder {

// SipHash-2-4 of eight bytes (Aumasson and Bernstein, 2012) under a key of 64 bits.
inline uint64_t sip_hash(uint64_t key, uint64_t word) {
  uint64_t a = key ^ 0x736f6d6570736575;
  uint64_t b = 0x646f72616e646f6d;
  uint64_t c = key ^ 0x6c7967656e657261;
  uint64_t d = 0x7465646279746573;
  const auto rotated = [](uint64_t x, int by) { return x << by | x >> (64 - by); };
  const auto mix = [&](int rounds) {
    while (rounds-- > 0) {
      a += b;
      c += d;
      b = rotated(b, 13) ^ a;
      d = rotated(d, 16) ^ c;
      a = rotated(a, 32);
      c += b;
      a += d;
      b = rotated(b, 17) ^ c;
      d = rotated(d, 21) ^ a;
      c = rotated(c, 32);
    }
  };
  for (const uint64_t block : {word, uint64_t{8} << 56}) {
    d ^= block;
    mix(2);
    a ^= block;
  }
  c ^= 0xff;
  mix(4);
  return a ^ b ^ c ^ d;
}

inline uint64_t first_key(uint64_t secret, uint64_t line) { return sip_hash(secret, line); }
inline uint64_t next_key(uint64_t key) { return sip_hash(key, 0); }

}  // namespace stepcoder
