// See probes.h.
//
// When 3.11 reports a line (maybe_call_line_trace in its ceval.c): before an instruction that has a
// line, if the instruction before it in this frame was on another line or, SEND apart, further
// down. RESUME and what comes before the first RESUME report nothing, and count as no line.
#include "probes.h"

#if PY_VERSION_HEX < 0x030C0000

#include <opcode.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#define Py_BUILD_CORE 1
#include <internal/pycore_code.h>
#undef Py_BUILD_CORE

namespace stepcoder::probes {
namespace {

constexpr int kNone = -1;
constexpr int kProbeUnits = 2;
constexpr _Py_CODEUNIT kArmed = _Py_MAKECODEUNIT(LOAD_ASSERTION_ERROR, 0);
constexpr _Py_CODEUNIT kDisarmed = _Py_MAKECODEUNIT(JUMP_FORWARD, 1);
constexpr _Py_CODEUNIT kTest = _Py_MAKECODEUNIT(POP_JUMP_FORWARD_IF_TRUE, 0);

struct Decref {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Owned = std::unique_ptr<PyObject, Decref>;

struct Instruction {
  int start = 0;  // in code units, its EXTENDED_ARGs included
  int line = kNone;
  int opcode = 0;
  int prefixes = 0;  // EXTENDED_ARGs
  int caches = 0;
  uint32_t argument = 0;
  int target = kNone;   // index of the instruction it may jump to
  int handler = kNone;  // index of the one that an exception in it leads to
  bool probed = false;
  bool resumed = false;  // a frame resumed on this line can come here without leaving the line
  int new_start = 0;     // its probe included

  int units() const { return prefixes + 1 + caches; }
};

// A stretch of the code with one handler, or with one place in the source. Both tables consist of
// bytes with six bits each and one for "more to come".
struct Handled {
  int start, end, target, depth;
};
struct Located {
  int units;
  int kind;
  int line;
  std::string_view columns;
};

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
    while ((next & 64) != 0) {
      next = byte();
      value = value << 6 | (next & 63);
    }
    return value;
  }
  int low_bits_first() {
    int next = byte();
    uint32_t value = next & 63;
    for (int shift = 6; (next & 64) != 0; shift += 6) {
      next = byte();
      value |= static_cast<uint32_t>(next & 63) << shift;
    }
    return static_cast<int>(value);
  }

 private:
  const char* at_;
  const char* end_;
};

void put_high_bits_first(std::string& out, int value, int first_flag = 0) {
  int shift = 0;
  while (value >> (shift + 6) != 0) shift += 6;
  for (int flag = first_flag; shift >= 0; shift -= 6, flag = 0)
    out.push_back(static_cast<char>((value >> shift & 63) | (shift > 0 ? 64 : 0) | flag));
}

void put_signed(std::string& out, int number) {
  uint32_t value =
      number < 0 ? (static_cast<uint32_t>(-number) << 1 | 1) : static_cast<uint32_t>(number) << 1;
  for (; value >= 64; value >>= 6) out.push_back(static_cast<char>((value & 63) | 64));
  out.push_back(static_cast<char>(value));
}

bool has_line_delta(int kind) {
  return kind == PY_CODE_LOCATION_INFO_NO_COLUMNS || kind == PY_CODE_LOCATION_INFO_LONG;
}

std::vector<Located> read_locations(PyCodeObject* code) {
  std::vector<Located> locations;
  Reader table(code->co_linetable);
  int line = code->co_firstlineno;
  while (table.more()) {
    const int first = table.byte();
    const int kind = first >> 3 & 15;
    int columns = 0;
    if (has_line_delta(kind)) {
      const int delta = table.low_bits_first();
      line += (delta & 1) != 0 ? -(delta >> 1) : delta >> 1;
    } else if (kind >= PY_CODE_LOCATION_INFO_ONE_LINE0 && kind <= PY_CODE_LOCATION_INFO_ONE_LINE2) {
      line += kind - PY_CODE_LOCATION_INFO_ONE_LINE0;
      columns = 2;
    } else if (kind < PY_CODE_LOCATION_INFO_ONE_LINE0) {
      columns = 1;
    }
    const char* start = table.at();
    if (kind == PY_CODE_LOCATION_INFO_LONG)  // the last line and both columns
      for (int i = 0; i < 3; ++i) table.low_bits_first();
    for (int i = 0; i < columns; ++i) table.byte();
    locations.push_back({.units = (first & 7) + 1,
                         .kind = kind,
                         .line = kind == PY_CODE_LOCATION_INFO_NONE ? kNone : line,
                         .columns = {start, static_cast<size_t>(table.at() - start)}});
  }
  return locations;
}

bool jumps_back(int opcode) {
  switch (opcode) {
    case JUMP_BACKWARD:
    case JUMP_BACKWARD_NO_INTERRUPT:
    case POP_JUMP_BACKWARD_IF_NOT_NONE:
    case POP_JUMP_BACKWARD_IF_NONE:
    case POP_JUMP_BACKWARD_IF_FALSE:
    case POP_JUMP_BACKWARD_IF_TRUE:
      return true;
    default:
      return false;
  }
}

bool jumps_forward(int opcode) {
  switch (opcode) {
    case FOR_ITER:
    case JUMP_FORWARD:
    case JUMP_IF_FALSE_OR_POP:
    case JUMP_IF_TRUE_OR_POP:
    case POP_JUMP_FORWARD_IF_FALSE:
    case POP_JUMP_FORWARD_IF_TRUE:
    case POP_JUMP_FORWARD_IF_NOT_NONE:
    case POP_JUMP_FORWARD_IF_NONE:
    case SEND:
      return true;
    default:
      return false;
  }
}

bool falls_through(int opcode) {
  switch (opcode) {
    case RETURN_VALUE:
    case RAISE_VARARGS:
    case RERAISE:
    case JUMP_FORWARD:
    case JUMP_BACKWARD:
    case JUMP_BACKWARD_NO_INTERRUPT:
      return false;
    default:
      return true;
  }
}

// One code object on its way to a copy with probes.
class Rewriter {
 public:
  explicit Rewriter(PyCodeObject* code) : code_(code), locations_(read_locations(code)) {
    decode();
  }

  // Chooses where probes go. False if they cannot be exact.
  bool place();
  // The copy, or nullptr with a Python error.
  PyCodeObject* build(PyObject* constants, std::vector<Probe>& probes);

 private:
  void decode();
  // What comes after instruction `i`, each with `visit(successor)`.
  template <typename Visit>
  void each_successor(int i, Visit visit) const;
  bool reports(int from, int to) const;
  void follow_resumed(int from);
  void lay_out();
  Owned bytecode() const;
  Owned location_table() const;
  Owned exception_table() const;

  // Where what began at a code unit of the original, or ended before it, begins or ends now.
  int moved(int unit) const {
    return unit < units_ ? instructions_[index_of_[unit]].new_start : new_units_;
  }

  PyCodeObject* code_;
  std::vector<Located> locations_;
  std::vector<Handled> handled_;
  std::vector<Instruction> instructions_;
  std::vector<int> index_of_;  // of a code unit's instruction
  int units_ = 0;
  int new_units_ = 0;
};

void Rewriter::decode() {
  // The code has never run, so nothing in it is specialised and its caches are empty.
  const _Py_CODEUNIT* unit = _PyCode_CODE(code_);
  units_ = static_cast<int>(Py_SIZE(code_));
  index_of_.resize(units_);
  std::vector<int> line_of(units_, kNone);
  int covered = 0;
  for (const Located& part : locations_)
    for (int i = 0; i < part.units && covered < units_; ++i) line_of[covered++] = part.line;
  for (int at = 0; at < units_;) {
    Instruction instruction{.start = at, .line = line_of[at]};
    for (; _Py_OPCODE(unit[at]) == EXTENDED_ARG; ++at, ++instruction.prefixes)
      instruction.argument = (instruction.argument | _Py_OPARG(unit[at])) << 8;
    instruction.opcode = _Py_OPCODE(unit[at]);
    instruction.argument |= _Py_OPARG(unit[at]);
    for (++at; at < units_ && _Py_OPCODE(unit[at]) == CACHE; ++at) ++instruction.caches;
    std::fill(index_of_.begin() + instruction.start, index_of_.begin() + at,
              static_cast<int>(instructions_.size()));
    instructions_.push_back(instruction);
  }
  for (Instruction& one : instructions_) {
    const int next = one.start + one.units();
    if (jumps_forward(one.opcode)) one.target = index_of_[next + static_cast<int>(one.argument)];
    if (jumps_back(one.opcode)) one.target = index_of_[next - static_cast<int>(one.argument)];
  }
  for (Reader table(code_->co_exceptiontable); table.more();) {
    const int start = table.high_bits_first();  // its flag is above the six bits
    const int end = start + table.high_bits_first();
    const int target = table.high_bits_first();
    handled_.push_back({start, end, target, table.high_bits_first()});
    for (int at = start; at < end && at < units_; ++at)
      instructions_[index_of_[at]].handler = index_of_[target];
  }
}

template <typename Visit>
void Rewriter::each_successor(int i, Visit visit) const {
  const Instruction& one = instructions_[i];
  if (falls_through(one.opcode) && i + 1 < static_cast<int>(instructions_.size())) visit(i + 1);
  if (one.target != kNone) visit(one.target);
  if (one.handler != kNone) visit(one.handler);
}

bool Rewriter::reports(int from, int to) const {
  const Instruction& one = instructions_[to];
  if (one.line == kNone || one.opcode == RESUME || one.start <= code_->_co_firsttraceable)
    return false;
  if (instructions_[from].start <= code_->_co_firsttraceable) return true;
  return one.line != instructions_[from].line || (to < from && one.opcode != SEND);
}

void Rewriter::follow_resumed(int from) {
  std::vector<int> open{from};
  while (!open.empty()) {
    const int i = open.back();
    open.pop_back();
    if (instructions_[i].resumed) continue;
    instructions_[i].resumed = true;
    each_successor(i, [&](int next) {
      if (!reports(i, next)) open.push_back(next);
    });
  }
}

bool Rewriter::place() {
  const int count = static_cast<int>(instructions_.size());
  for (int i = 0; i < count; ++i)
    each_successor(i, [&](int next) {
      if (reports(i, next)) instructions_[next].probed = true;
    });
  for (int i = 1; i < count; ++i)
    if (instructions_[i].opcode == RESUME && instructions_[i].start > code_->_co_firsttraceable) {
      follow_resumed(i);
      follow_resumed(i - 1);  // the yield: throw() raises there
    }
  for (int i = 0; i < count; ++i) {
    const Instruction& one = instructions_[i];
    if (one.probed && one.resumed) return false;
    // The interpreter takes a specialised PRECALL for the CALL after it too, and a generator's
    // throw() counts on what SEND jumps over.
    if (one.opcode == PRECALL && instructions_[i + 1].probed) return false;
    if (one.opcode == SEND)
      for (int j = i + 1; j < one.target; ++j)
        if (instructions_[j].probed) return false;
  }
  return true;
}

void Rewriter::lay_out() {
  // Jumps that grow by an EXTENDED_ARG can make others grow.
  for (bool stable = false; !stable;) {
    new_units_ = 0;
    for (Instruction& one : instructions_) {
      one.new_start = new_units_;
      new_units_ += one.units() + (one.probed ? kProbeUnits : 0);
    }
    stable = true;
    for (size_t i = 0; i < instructions_.size(); ++i) {
      Instruction& one = instructions_[i];
      if (one.target == kNone) continue;
      const int next = i + 1 < instructions_.size() ? instructions_[i + 1].new_start : new_units_;
      one.argument = static_cast<uint32_t>(std::abs(instructions_[one.target].new_start - next));
      const int needed = one.argument < 1U << 8 ? 0 : one.argument < 1U << 16 ? 1 : 2;
      if (needed > one.prefixes) {
        one.prefixes = needed;
        stable = false;
      }
    }
  }
}

Owned Rewriter::bytecode() const {
  Owned bytes(PyBytes_FromStringAndSize(nullptr, Py_ssize_t{2} * new_units_));
  if (bytes == nullptr) return bytes;
  auto* unit = reinterpret_cast<_Py_CODEUNIT*>(PyBytes_AS_STRING(bytes.get()));
  for (const Instruction& one : instructions_) {
    if (one.probed) {
      *unit++ = kArmed;
      *unit++ = kTest;
    }
    for (int left = one.prefixes; left > 0; --left)
      *unit++ = _Py_MAKECODEUNIT(EXTENDED_ARG, one.argument >> (8 * left) & 255);
    *unit++ = _Py_MAKECODEUNIT(one.opcode, one.argument & 255);
    for (int i = 0; i < one.caches; ++i) *unit++ = _Py_MAKECODEUNIT(CACHE, 0);
  }
  return bytes;
}

Owned Rewriter::location_table() const {
  std::string out;
  int line = code_->co_firstlineno;
  int start = 0;
  for (const Located& part : locations_) {
    const int end = start + part.units;
    // An entry may begin within an instruction, which is longer than an entry can be; then what
    // was put before the instruction counts to the entry where it begins.
    const auto new_place = [&](int unit) {
      if (unit >= units_) return new_units_;
      const Instruction& one = instructions_[index_of_[unit]];
      if (one.start == unit) return one.new_start;
      const int left = one.start + one.units() - unit;
      return moved(std::min(one.start + one.units(), units_)) - left;
    };
    for (int left = new_place(end) - new_place(start); left > 0; left -= 8) {
      int kind = part.kind;
      if (kind >= PY_CODE_LOCATION_INFO_ONE_LINE0 && kind <= PY_CODE_LOCATION_INFO_ONE_LINE2)
        kind = PY_CODE_LOCATION_INFO_ONE_LINE0 + part.line - line;
      out.push_back(static_cast<char>(128 | kind << 3 | (std::min(left, 8) - 1)));
      if (has_line_delta(kind)) put_signed(out, part.line - line);
      out.append(part.columns);
      if (part.line != kNone) line = part.line;
    }
    start = end;
  }
  return Owned(PyBytes_FromStringAndSize(out.data(), static_cast<Py_ssize_t>(out.size())));
}

Owned Rewriter::exception_table() const {
  std::string out;
  for (const Handled& part : handled_) {
    const int start = moved(part.start);
    put_high_bits_first(out, start, 128);
    put_high_bits_first(out, moved(part.end) - start);
    put_high_bits_first(out, moved(part.target));
    put_high_bits_first(out, part.depth);
  }
  return Owned(PyBytes_FromStringAndSize(out.data(), static_cast<Py_ssize_t>(out.size())));
}

PyCodeObject* Rewriter::build(PyObject* constants, std::vector<Probe>& probes) {
  lay_out();
  const Owned units = bytecode();
  const Owned locations = location_table();
  const Owned handlers = exception_table();
  if (units == nullptr || locations == nullptr || handlers == nullptr) return nullptr;
  _PyCodeConstructor parts{.filename = code_->co_filename,
                           .name = code_->co_name,
                           .qualname = code_->co_qualname,
                           .flags = code_->co_flags,
                           .code = units.get(),
                           .firstlineno = code_->co_firstlineno,
                           .linetable = locations.get(),
                           .consts = constants,
                           .names = code_->co_names,
                           .localsplusnames = code_->co_localsplusnames,
                           .localspluskinds = code_->co_localspluskinds,
                           .argcount = code_->co_argcount,
                           .posonlyargcount = code_->co_posonlyargcount,
                           .kwonlyargcount = code_->co_kwonlyargcount,
                           .stacksize = code_->co_stacksize + 1,
                           .exceptiontable = handlers.get()};
  if (_PyCode_Validate(&parts) != 0) return nullptr;
  PyCodeObject* copy = _PyCode_New(&parts);
  if (copy == nullptr) return nullptr;
  for (const Instruction& one : instructions_)
    if (one.probed) probes.push_back({_PyCode_CODE(copy) + one.new_start, one.line});
  return copy;
}

}  // namespace

Exactness add(PyCodeObject* code, PyCodeObject*& copy, std::vector<Probe>& probes) {
  Rewriter rewriter(code);
  if (!rewriter.place()) return Exactness::kInexact;
  const Py_ssize_t count = PyTuple_GET_SIZE(code->co_consts);
  Owned constants(PyTuple_New(count));
  if (constants == nullptr) return Exactness::kPythonError;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* constant = PyTuple_GET_ITEM(code->co_consts, i);
    PyCodeObject* inner = nullptr;
    if (PyCode_Check(constant)) {
      const Exactness found = add(reinterpret_cast<PyCodeObject*>(constant), inner, probes);
      if (found != Exactness::kExact) return found;
    }
    PyTuple_SET_ITEM(constants.get(), i,
                     inner == nullptr ? Py_NewRef(constant) : reinterpret_cast<PyObject*>(inner));
  }
  copy = rewriter.build(constants.get(), probes);
  return copy == nullptr ? Exactness::kPythonError : Exactness::kExact;
}

void arm(const Probe& probe) { *probe.unit = kArmed; }

void disarm(const Probe& probe) { *probe.unit = kDisarmed; }

}  // namespace stepcoder::probes

#endif
