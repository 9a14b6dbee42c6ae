// The first byte of every encoded value.
#pragma once

namespace stepcoder {

enum Tag : char {
  kNone = 'N',
  kTrue = 'T',
  kFalse = 'F',
  kSmallInt = 'i',
  kBigInt = 'I',
  kFloat = 'f',
  kComplex = 'c',
  kStr = 's',
  kBytes = 'b',
  kList = 'l',
  kTuple = 't',
  kSet = 'S',
  kFrozenSet = 'Z',
  kDict = 'd',
  kMarked = 'x',
};

}  // namespace stepcoder
