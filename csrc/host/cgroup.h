// Control groups: a worker and its runs in a group of their own, whose memory and number of tasks
// the kernel limits together. What RLIMIT_AS does not see counts there: scratch files, page tables,
// kernel memory, the memory files of a run.
//
// A second wall behind the resource limits, where the machine lets the judge make groups. All of it
// is the judge's side; a worker knows nothing of it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>

namespace stepcoder {

// The folders in which this process may make groups.
struct CgroupParent {
  int version = 0;      // of the kernel's interface; 0 where groups are not to be had
  std::string memory;   // a folder of the hierarchy with the memory controller
  std::string pids;     // of the one with the pids controller: the same in version 2, "" if none
  std::string missing;  // why there is none
};

// Reads what /proc/self/cgroup and /proc/self/mountinfo say: parameters, so that a test can show it
// other machines. Never moves this process, and never leaves the limits that it is under.
CgroupParent find_cgroup_parent(const std::string& cgroups, const std::string& mounts);
CgroupParent find_cgroup_parent();

// Removes the groups of judges that are gone without having done so (kill -9). How many there were.
int remove_leftovers(const CgroupParent& parent);

class Cgroup {
 public:
  Cgroup() = default;  // no group: nothing below does anything
  // No group either where the machine refuses.
  explicit Cgroup(const CgroupParent& parent);
  Cgroup(Cgroup&& other) noexcept { *this = std::move(other); }
  Cgroup& operator=(Cgroup&& other) noexcept;
  // The processes must have ended.
  ~Cgroup() { remove(); }

  // Its folder in the memory hierarchy, "" if there is no group.
  const std::string& folder() const { return memory_; }

  // Takes a process in, with all that it starts from now on, and limits their number. False, and no
  // group any more, where refused.
  bool add(pid_t pid);

  // The group may use `bytes` beside what the worker itself uses, which is measured at the first
  // call: then it is ready and has had no run. Writes only what is not the limit already.
  void allow_memory(uint64_t bytes);

  // True if the kernel has ended a process of the group for its memory since the last call.
  bool ran_out_of_memory();

 private:
  void remove();

  int version_ = 0;
  pid_t owner_ = 0;  // a fork of the judge owns no group
  std::string memory_;
  std::string pids_;
  uint64_t own_bytes_ = 0;
  uint64_t limit_bytes_ = 0;
  uint64_t kills_ = 0;
};

}  // namespace stepcoder
