// See code_tables.h. Both tables consist of variable-length numbers: six bits a byte and one bit
// for "another byte follows". The first byte of an entry has its highest bit set.
#include "guest/code_tables.h"

#if PY_VERSION_HEX < 0x030C0000

#include <algorithm>
#include <cstdint>

namespace stepcoder::code_tables {
namespace {

constexpr int kEntry = 128;
constexpr int kGoesOn = 64;
constexpr int kMaxUnits = 8;  // of an entry of the location table

class Reader {
 public:
  explicit Reader(PyObject* bytes)
      : at_(PyBytes_AS_STRING(bytes)), end_(at_ + PyBytes_GET_SIZE(bytes)) {}
  bool more() const { return at_ < end_; }
  const char* at() const { return at_; }
  int byte() { return at_ < end_ ? static_cast<uint8_t>(*at_++) : 0; }

  int high_bits_first() {
    int next = byte();
    int value = next & 63;
    while ((next & kGoesOn) != 0) {
      next = byte();
      value = value << 6 | (next & 63);
    }
    return value;
  }

  int low_bits_first() {
    int next = byte();
    uint32_t value = next & 63;
    for (int shift = 6; (next & kGoesOn) != 0; shift += 6) {
      next = byte();
      value |= static_cast<uint32_t>(next & 63) << shift;
    }
    return static_cast<int>(value);
  }

  // The sign is the lowest bit.
  int low_bits_first_signed() {
    const int value = low_bits_first();
    return (value & 1) != 0 ? -(value >> 1) : value >> 1;
  }

 private:
  const char* at_;
  const char* end_;
};

void put(std::string& out, int byte) { out.push_back(static_cast<char>(byte)); }

void put_high_bits_first(std::string& out, int value, int flag = 0) {
  int shift = 0;
  while (value >> (shift + 6) != 0) shift += 6;
  for (; shift >= 0; shift -= 6, flag = 0)
    put(out, (value >> shift & 63) | (shift > 0 ? kGoesOn : 0) | flag);
}

void put_low_bits_first_signed(std::string& out, int number) {
  uint32_t value =
      number < 0 ? (static_cast<uint32_t>(-number) << 1 | 1) : static_cast<uint32_t>(number) << 1;
  for (; value > 63; value >>= 6) put(out, static_cast<int>(value & 63) | kGoesOn);
  put(out, static_cast<int>(value));
}

// Kinds of entry: some hold a line difference, three mean "0, 1 or 2 lines on", the rest stay on
// the line of the entry before.
bool has_number(int kind) {
  return kind == PY_CODE_LOCATION_INFO_NO_COLUMNS || kind == PY_CODE_LOCATION_INFO_LONG;
}

bool has_step(int kind) {
  return kind >= PY_CODE_LOCATION_INFO_ONE_LINE0 && kind <= PY_CODE_LOCATION_INFO_ONE_LINE2;
}

}  // namespace

std::vector<Location> read_locations(const PyCodeObject* code) {
  std::vector<Location> locations;
  // An entry takes two bytes or more.
  locations.reserve(static_cast<size_t>(PyBytes_GET_SIZE(code->co_linetable)) / 2);
  int line = code->co_firstlineno;
  int start = 0;
  for (Reader table(code->co_linetable); table.more();) {
    const int first = table.byte();
    const int kind = first >> 3 & 15;
    if (has_number(kind)) line += table.low_bits_first_signed();
    if (has_step(kind)) line += kind - PY_CODE_LOCATION_INFO_ONE_LINE0;
    const char* columns = table.at();
    if (kind == PY_CODE_LOCATION_INFO_LONG) {
      for (int i = 0; i < 3; ++i) table.low_bits_first();  // the last line, two columns
    } else if (kind < PY_CODE_LOCATION_INFO_NO_COLUMNS) {
      table.byte();
      if (has_step(kind)) table.byte();
    }
    const int end = start + (first & 7) + 1;
    locations.push_back({.start = start,
                         .end = end,
                         .line = kind == PY_CODE_LOCATION_INFO_NONE ? kNoLine : line,
                         .kind = kind,
                         .columns = {columns, static_cast<size_t>(table.at() - columns)}});
    start = end;
  }
  return locations;
}

std::string write_locations(const std::vector<Location>& locations, int first_line) {
  std::string out;
  out.reserve(4 * locations.size());
  int line = first_line;
  for (const Location& one : locations) {
    for (int left = one.end - one.start; left > 0; left -= kMaxUnits) {
      const int step = one.kind == PY_CODE_LOCATION_INFO_NONE ? 0 : one.line - line;
      const int kind = has_step(one.kind) ? PY_CODE_LOCATION_INFO_ONE_LINE0 + step : one.kind;
      put(out, kEntry | kind << 3 | (std::min(left, kMaxUnits) - 1));
      if (has_number(kind)) put_low_bits_first_signed(out, step);
      out.append(one.columns);
      line += step;
    }
  }
  return out;
}

std::vector<Handler> read_handlers(const PyCodeObject* code) {
  std::vector<Handler> handlers;
  for (Reader table(code->co_exceptiontable); table.more();) {
    const int start = table.high_bits_first();
    const int end = start + table.high_bits_first();
    const int target = table.high_bits_first();
    handlers.push_back({start, end, target, table.high_bits_first()});
  }
  return handlers;
}

std::string write_handlers(const std::vector<Handler>& handlers) {
  std::string out;
  for (const Handler& one : handlers) {
    put_high_bits_first(out, one.start, kEntry);
    put_high_bits_first(out, one.end - one.start);
    put_high_bits_first(out, one.target);
    put_high_bits_first(out, one.depth);
  }
  return out;
}

}  // namespace stepcoder::code_tables

#endif
