// See isolation.h. The order of the steps is the point of this file: read isolate() as a checklist.
#include "worker/isolation.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <utility>

#include "wire/fd.h"
#include "wire/protocol.h"
#include "worker/landlock.h"

namespace stepcoder {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kInnerId = 1000;
// Where the new root is put together: a folder that is covered, in this namespace alone, and that
// holds nothing of what is to be shown (an environment may lie in /tmp).
std::string stage(const std::vector<std::string>& readable) {
  for (const std::string folder : {"/tmp", "/mnt", "/media", "/srv", "/var/tmp", "/home", "/opt"}) {
    const bool is_free =
        std::none_of(readable.begin(), readable.end(), [&](const std::string& path) {
          return path.compare(0, folder.size() + 1, folder + "/") == 0;
        });
    if (is_free && fs::is_directory(folder) && !fs::is_symlink(folder)) return folder;
  }
  return "/tmp";
}

bool write_file(const char* path, const std::string& text) {
  UniqueFd file(open(path, O_WRONLY | O_CLOEXEC));
  return file && write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Enters a user namespace whose only user is the caller, under another id.
bool enter_user_namespace(int more_namespaces) {
  // The id maps of a process that has changed its user belong to root unless it is dumpable.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  const std::string uid = std::to_string(geteuid());
  const std::string gid = std::to_string(getegid());
  const std::string inner = std::to_string(kInnerId);
  if (unshare(CLONE_NEWUSER | more_namespaces) != 0) return false;
  return write_file("/proc/self/setgroups", "deny") &&
         write_file("/proc/self/uid_map", inner + " " + uid + " 1") &&
         write_file("/proc/self/gid_map", inner + " " + gid + " 1");
}

// Mount flags that a less privileged namespace must keep.
unsigned long locked_flags(const std::string& path) {
  struct statvfs info{};
  if (statvfs(path.c_str(), &info) != 0) return 0;
  unsigned long flags = 0;
  if ((info.f_flag & ST_NOSUID) != 0) flags |= MS_NOSUID;
  if ((info.f_flag & ST_NODEV) != 0) flags |= MS_NODEV;
  if ((info.f_flag & ST_NOEXEC) != 0) flags |= MS_NOEXEC;
  if ((info.f_flag & ST_NOATIME) != 0) flags |= MS_NOATIME;
  if ((info.f_flag & ST_NODIRATIME) != 0) flags |= MS_NODIRATIME;
  if ((info.f_flag & ST_RELATIME) != 0) flags |= MS_RELATIME;
  return flags;
}

void show_read_only(const std::string& path, const std::string& root) {
  if (fs::is_symlink(path)) {  // /lib -> usr/lib
    fs::create_directories(root + fs::path(path).parent_path().string());
    fs::create_symlink(fs::read_symlink(path), root + path);
    return;
  }
  const std::string target = root + path;
  if (fs::is_directory(path)) {
    fs::create_directories(target);
  } else {
    fs::create_directories(fs::path(target).parent_path());
    UniqueFd file(open(target.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0444));
  }
  checked(mount(path.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr), "bind mount");
  checked(mount(nullptr, target.c_str(), nullptr,
                MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | locked_flags(target), nullptr),
          "read-only remount");
}

void hide(const std::string& target) {
  if (fs::is_directory(target))
    checked(mount("tmpfs", target.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                  "size=64k,nr_inodes=1k,mode=755"),
            "hide a folder");
  else
    checked(mount("/dev/null", target.c_str(), nullptr, MS_BIND, nullptr), "hide a file");
}

// Enters a root that holds the interpreter, read-only, an empty scratch folder and nothing else.
void change_root(const IsolationConfig& config) {
  const std::string root = stage(config.readable);
  // Mounts from here on do not propagate to the machine's own mount table.
  checked(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
  checked(
      mount("tmpfs", root.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4k,mode=755"),
      "mount the new root");
  // Parents come first: libraries are shown within a folder of packages that is hidden.
  std::vector<std::pair<std::string, bool>> paths;
  for (const std::string& path : config.readable) paths.emplace_back(path, true);
  for (const std::string& path : config.hidden) paths.emplace_back(path, false);
  std::stable_sort(paths.begin(), paths.end(), [](const auto& left, const auto& right) {
    return left.first.size() < right.first.size();
  });
  for (const auto& [path, shown] : paths) {
    if (shown && fs::exists(path)) show_read_only(path, root);
    if (!shown && fs::exists(root + path)) hide(root + path);
  }
  for (const std::string& path : config.hidden)
    if (fs::is_directory(root + path))
      checked(mount(nullptr, (root + path).c_str(), nullptr,
                    MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr),
              "make a hidden folder read-only");
  // Reading it gives stdin (preload/dev_stdin.cpp); this is for programs that look whether it is
  // there.
  fs::create_directories(root + "/dev");
  // Machine code finds a copy of it.
  if (config.guest == Guest::kPython)
    UniqueFd(open((root + "/dev/stdin").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0444));
  else
    fs::create_symlink(config.scratch + "/.stdin", root + "/dev/stdin");
  const std::string scratch = root + config.scratch;
  fs::create_directories(scratch);
  const std::string options =
      "size=" + std::to_string(config.scratch_bytes) + ",nr_inodes=256,mode=777";
  const auto mounted = [&](const std::string& more) {
    return mount("tmpfs", scratch.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME,
                 (options + more).c_str());
  };
  // Only its owner can set a folder's times back. The root of a user namespace may know no other.
  const bool is_owned = geteuid() == 0 && mounted(",uid=" + std::to_string(config.own_uid)) == 0;
  if (!is_owned) checked(mounted(""), "mount the scratch folder");
  checked(chdir(root.c_str()), "enter the new root");
  checked(syscall(SYS_pivot_root, ".", "."), "pivot_root");
  checked(umount2(".", MNT_DETACH), "let go of the old root");
  checked(mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV,
                nullptr),
          "make the new root read-only");
  checked(chdir(config.scratch.c_str()), "enter the scratch folder");
}

// Becomes an unprivileged user for good. False if refused (a container without the capability).
bool become(uint32_t uid) {
  for (int capability = 0; capability < 64; ++capability)
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) break;
  if (setgroups(0, nullptr) != 0) return false;
  return setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0;
}

// True if any user can read the path. Otherwise another uid would lose the standard library.
bool readable_by_all(const std::string& path) {
  std::error_code error;
  const auto others_may = [&](const fs::path& part, fs::perms what) {
    return (fs::status(part, error).permissions() & what) == what && !error;
  };
  if (!fs::exists(path, error)) return true;
  const bool folder = fs::is_directory(path, error);
  if (!others_may(path, fs::perms::others_read | (folder ? fs::perms::others_exec : fs::perms{})))
    return false;
  for (fs::path part = fs::path(path).parent_path(); part != part.root_path();
       part = part.parent_path())
    if (!others_may(part, fs::perms::others_exec)) return false;
  return true;
}

// Takes steps that may fail halfway, once a process that tries them first has succeeded in all of
// them. Containers and AppArmor allow namespaces and then refuse the mounts in them.
template <typename Steps>
bool all_or_nothing(Steps steps) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    bool done = false;
    try {
      done = steps();
    } catch (const std::exception&) {
      done = false;
    }
    _exit(done ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 && steps();
}

// A pid namespace needs a capability that only some machines give, so this tries one.
bool can_make_pid_namespace() {
  long child = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
  if (child < 0) return false;
  if (child == 0) _exit(0);
  waitpid(static_cast<pid_t>(child), nullptr, 0);
  return true;
}

void set_limit(__rlimit_resource_t resource, rlim_t value) {
  rlimit limit{};
  getrlimit(resource, &limit);
  value = std::min(value, limit.rlim_max);
  limit = {value, value};
  checked(setrlimit(resource, &limit), "setrlimit");
}

constexpr int kOtherNamespaces = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;

struct Got {
  bool user_namespace = false;
  bool mount_namespace = false;
  bool network_namespace = false;
  bool own_uid = true;
};

// For a judge that runs as root. The worker then is an unprivileged user who cannot change the
// mounts; runs get their pid namespaces from a user namespace that this user makes at the end.
void isolate_root(const IsolationConfig& config, Got& got) {
  got.mount_namespace = all_or_nothing([&] {
    if (unshare(CLONE_NEWNS | kOtherNamespaces) != 0) return false;
    change_root(config);
    return true;
  });
  got.network_namespace = got.mount_namespace || unshare(kOtherNamespaces) == 0;
  const bool can_read = got.mount_namespace || std::all_of(config.readable.begin(),
                                                           config.readable.end(), readable_by_all);
  got.own_uid = can_read && become(config.own_uid);
  got.user_namespace = got.mount_namespace && unshare(CLONE_NEWUSER) == 0;
}

// For an ordinary user, or a root who may not mount: a user namespace gives the right to the
// others.
void isolate_user(const IsolationConfig& config, Got& got) {
  got.mount_namespace = all_or_nothing([&] {
    if (!enter_user_namespace(CLONE_NEWNS | kOtherNamespaces)) return false;
    change_root(config);
    return true;
  });
  got.user_namespace =
      got.mount_namespace || all_or_nothing([] { return enter_user_namespace(0); });
  got.network_namespace =
      got.network_namespace || got.mount_namespace || unshare(kOtherNamespaces) == 0;
}

// Limits that are the same for every run. The hard limits too, so that no program can raise them.
void set_fixed_limits(bool user_namespace) {
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_MEMLOCK, 0);
  set_limit(RLIMIT_MSGQUEUE, 0);
  // A program has kMaxFiles. The worker has more, since the kernel counts descriptors that are
  // under way in messages for all processes of a user, and refuses to send one beyond the sender's
  // limit.
  rlimit files{};
  checked(getrlimit(RLIMIT_NOFILE, &files), "getrlimit");
  files.rlim_cur = files.rlim_max;
  checked(setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
  // A program may raise this one: the stack is memory like any other.
  rlimit stack{};
  checked(getrlimit(RLIMIT_STACK, &stack), "getrlimit");
  stack.rlim_cur = std::min(stack.rlim_max, rlim_t{64} << 20);
  checked(setrlimit(RLIMIT_STACK, &stack), "setrlimit");
  // Counted for this worker alone in its user namespace; elsewhere for all of the user's processes.
  if (user_namespace) set_limit(RLIMIT_NPROC, kMaxTasks);
}

}  // namespace

Isolation isolate(const IsolationConfig& config) {
  Got got;
  if (geteuid() == 0) isolate_root(config, got);
  if (!got.mount_namespace) isolate_user(config, got);
  // Without a root of its own the worker sees the machine's files; Landlock then keeps programs
  // from opening them, and in either case from the memory of this user's other processes.
  const bool executable = config.guest != Guest::kPython;
  const bool landlock = got.mount_namespace
                            ? allow_files(config.readable, {}, config.scratch, executable)
                            : allow_files(config.readable, config.hidden, "", executable);
  const bool pid_namespace = can_make_pid_namespace();
  // Nobody with the same user id may read or trace this process or its children.
  checked(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable");
  set_fixed_limits(got.user_namespace);

  Isolation result;
  for (const auto& [layer, is_there] : {std::pair{kUserNamespace, got.user_namespace},
                                        {kMountNamespace, got.mount_namespace},
                                        {kNetworkNamespace, got.network_namespace},
                                        {kPidNamespace, pid_namespace},
                                        {kOwnUid, got.own_uid},
                                        {kReadableFiles, got.mount_namespace || landlock}})
    if (!is_there) result.missing_layers |= layer;
  return result;
}

void drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2]{};
  checked(syscall(SYS_capset, &header, none), "drop capabilities");
}

}  // namespace stepcoder
