// See probes.h.
//
// Python 3.11 reports a line (maybe_call_line_trace in ceval.c) before an instruction that has a
// line, if the instruction before it in this frame was on another line or, SEND apart, further
// down. RESUME and the instructions before the first RESUME report nothing and count as no line.
#include "guest/probes.h"

#if PY_VERSION_HEX < 0x030C0000

#include <opcode.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "guest/code_tables.h"

#define Py_BUILD_CORE 1
#include <internal/pycore_code.h>
#undef Py_BUILD_CORE

namespace stepcoder::probes {
namespace {

using code_tables::Handler;
using code_tables::kNoLine;
using code_tables::Location;

constexpr int kNone = -1;
constexpr int kProbeUnits = 2;
constexpr _Py_CODEUNIT kArmed = _Py_MAKECODEUNIT(LOAD_ASSERTION_ERROR, 0);
constexpr _Py_CODEUNIT kDisarmed = _Py_MAKECODEUNIT(JUMP_FORWARD, 1);
constexpr _Py_CODEUNIT kTest = _Py_MAKECODEUNIT(POP_JUMP_FORWARD_IF_TRUE, 0);

struct Decref {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Owned = std::unique_ptr<PyObject, Decref>;

Owned to_bytes(const std::string& bytes) {
  return Owned(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

struct Instruction {
  int start = 0;  // in code units, its EXTENDED_ARGs included
  int line = kNoLine;
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
  explicit Rewriter(PyCodeObject* code)
      : code_(code),
        locations_(code_tables::read_locations(code)),
        handlers_(code_tables::read_handlers(code)) {
    decode();
    place();
  }

  bool has_compiler_layout() const;
  bool is_ambiguous() const;
  // The copy, or nullptr with a Python error.
  PyObject* build(PyObject* constants, std::vector<Probe>& probes);

 private:
  void decode();
  void place();
  // Visits what can come after instruction `i`.
  template <typename Visit>
  void each_successor(int i, Visit visit) const;
  bool reports(int from, int to) const;
  void follow_resumed(int from);
  void lay_out();
  // Where a code unit of the original lies in the copy.
  int moved(int unit) const;
  Owned bytecode() const;
  Owned location_table();
  Owned exception_table();

  PyCodeObject* code_;
  std::vector<Location> locations_;
  std::vector<Handler> handlers_;
  std::vector<Instruction> instructions_;
  std::vector<int> index_of_;  // the instruction that a code unit belongs to
  int units_ = 0;
  int new_units_ = 0;
};

void Rewriter::decode() {
  // The code has never run, so nothing in it is specialised and its caches are empty.
  const _Py_CODEUNIT* unit = _PyCode_CODE(code_);
  units_ = static_cast<int>(Py_SIZE(code_));
  index_of_.resize(units_);
  instructions_.reserve(units_);
  auto location = locations_.begin();
  for (int at = 0; at < units_;) {
    Instruction one{.start = at};
    while (location != locations_.end() && location->end <= at) ++location;
    if (location != locations_.end()) one.line = location->line;
    for (; _Py_OPCODE(unit[at]) == EXTENDED_ARG; ++at, ++one.prefixes)
      one.argument = (one.argument | _Py_OPARG(unit[at])) << 8;
    one.opcode = _Py_OPCODE(unit[at]);
    one.argument |= _Py_OPARG(unit[at]);
    for (++at; at < units_ && _Py_OPCODE(unit[at]) == CACHE; ++at) ++one.caches;
    std::fill(index_of_.begin() + one.start, index_of_.begin() + at,
              static_cast<int>(instructions_.size()));
    instructions_.push_back(one);
  }
  for (Instruction& one : instructions_) {
    const int next = one.start + one.units();
    if (jumps_forward(one.opcode)) one.target = index_of_[next + static_cast<int>(one.argument)];
    if (jumps_back(one.opcode)) one.target = index_of_[next - static_cast<int>(one.argument)];
  }
  for (const Handler& handler : handlers_)
    for (int at = handler.start; at < handler.end; ++at)
      instructions_[index_of_[at]].handler = index_of_[handler.target];
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

void Rewriter::place() {
  const int count = static_cast<int>(instructions_.size());
  for (int i = 0; i < count; ++i)
    each_successor(i, [&](int next) {
      if (reports(i, next)) instructions_[next].probed = true;
    });
  for (int i = 1; i < count; ++i)
    if (instructions_[i].opcode == RESUME && instructions_[i].start > code_->_co_firsttraceable) {
      follow_resumed(i);
      // throw() raises at the yield before it.
      const int handler = instructions_[i - 1].handler;
      if (handler != kNone && !reports(i - 1, handler)) follow_resumed(handler);
    }
}

bool Rewriter::has_compiler_layout() const {
  const int count = static_cast<int>(instructions_.size());
  for (int i = 0; i < count; ++i) {
    const Instruction& one = instructions_[i];
    // A specialised PRECALL also executes the CALL after it, and a generator's throw() relies on
    // the instructions that SEND jumps over.
    const int last = one.opcode == PRECALL ? i + 1 : one.opcode == SEND ? one.target - 1 : i;
    for (int j = i + 1; j <= last; ++j)
      if (j == count || instructions_[j].probed) return false;
  }
  return true;
}

bool Rewriter::is_ambiguous() const {
  return std::any_of(instructions_.begin(), instructions_.end(),
                     [](const Instruction& one) { return one.probed && one.resumed; });
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

int Rewriter::moved(int unit) const {
  if (unit >= units_) return new_units_;
  const size_t i = index_of_[unit];
  const Instruction& one = instructions_[i];
  if (one.start == unit) return one.new_start;
  // An instruction can be longer than one entry of the location table, which may then begin within
  // it. A probe put before the instruction belongs to the entry before.
  const int end = i + 1 < instructions_.size() ? instructions_[i + 1].new_start : new_units_;
  const int old_end = i + 1 < instructions_.size() ? instructions_[i + 1].start : units_;
  return end - (old_end - unit);
}

Owned Rewriter::location_table() {
  for (Location& one : locations_) {
    one.start = moved(one.start);
    one.end = moved(one.end);
  }
  return to_bytes(code_tables::write_locations(locations_, code_->co_firstlineno));
}

Owned Rewriter::exception_table() {
  for (Handler& one : handlers_) {
    one.start = moved(one.start);
    one.end = moved(one.end);
    one.target = moved(one.target);
  }
  return to_bytes(code_tables::write_handlers(handlers_));
}

PyObject* Rewriter::build(PyObject* constants, std::vector<Probe>& probes) {
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
  return reinterpret_cast<PyObject*>(copy);
}

}  // namespace

PyObject* add(PyCodeObject* code, Probed& probed) {
  Rewriter rewriter(code);
  if (!rewriter.has_compiler_layout()) return nullptr;
  const Py_ssize_t count = PyTuple_GET_SIZE(code->co_consts);
  Owned constants(PyTuple_New(count));
  if (constants == nullptr) return nullptr;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* constant = PyTuple_GET_ITEM(code->co_consts, i);
    PyObject* kept = PyCode_Check(constant) ? add(reinterpret_cast<PyCodeObject*>(constant), probed)
                                            : Py_NewRef(constant);
    if (kept == nullptr) return nullptr;
    PyTuple_SET_ITEM(constants.get(), i, kept);
  }
  PyObject* copy = rewriter.build(constants.get(), probed.probes);
  if (copy != nullptr && rewriter.is_ambiguous()) probed.ambiguous.push_back(copy);
  return copy;
}

void arm(const Probe& probe) { *probe.unit = kArmed; }

void disarm(const Probe& probe) { *probe.unit = kDisarmed; }

}  // namespace stepcoder::probes

#endif
