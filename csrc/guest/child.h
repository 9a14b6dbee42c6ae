// A child of the worker: one run of one program, from the fork to its end.
#pragma once

#include <Python.h>
#include <linux/filter.h>

#include <cstdint>
#include <vector>

#include "wire/protocol.h"

namespace stepcoder::child {

// What every run of a worker shares.
struct Shared {
  void* board = nullptr;
  std::vector<sock_filter> filter;     // empty if the worker's own filter is inherited
  uint64_t address_space_bytes = 0;    // of the worker itself
  uint64_t resident_bytes = 0;         // likewise, the memory in use
  std::vector<uintptr_t> dirty_pages;  // pages that every run writes to
  bool native = false;                 // runs start other programs, which get the limits
  int violations_fd = -1;              // where those of machine code are read
};

// Confines this process, waits on the socket `control` for the run to start, calls
// run(request, channel) and ends. `channel` is -1 or a descriptor.
[[noreturn]] void run(const Shared& shared, int control, PyObject* run);

// In the worker: iterates over rehearse(), which makes warm-up runs and yields after each. They use
// a board of one test, which is cleared before the first real run.
void rehearse(const Shared& shared, PyObject* rehearse);

// For the Python code of a run. False: a Python error is set.
void enter_phase(uint32_t phase);
bool record_value(PyObject* value, PyObject* normalize);
bool record_error(PyObject* error);
BoardHeader& header();
const ControlMessage& limits();  // of this run
uint32_t first_test();

}  // namespace stepcoder::child
