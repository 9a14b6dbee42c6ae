// Reads and writes the two tables beside the bytecode of a Python 3.11 code object: its locations
// in the source, and its exception handlers. Positions are code units.
#pragma once

#include <Python.h>

#if PY_VERSION_HEX < 0x030C0000

#include <string>
#include <string_view>
#include <vector>

namespace stepcoder::code_tables {

constexpr int kNoLine = -1;

struct Location {
  int start, end;
  int line;
  int kind;                  // how the table says it
  std::string_view columns;  // in the table, which the code object keeps
};

struct Handler {
  int start, end;
  int target;
  int depth;  // of the stack, with a bit that says what else is pushed
};

std::vector<Location> read_locations(const PyCodeObject* code);
std::string write_locations(const std::vector<Location>& locations, int first_line);

std::vector<Handler> read_handlers(const PyCodeObject* code);
std::string write_handlers(const std::vector<Handler>& handlers);

}  // namespace stepcoder::code_tables

#endif
