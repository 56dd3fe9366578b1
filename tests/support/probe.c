/* Tries ways out of a container, and ways up in it. One line for each: NAME <tab> ANSWER <tab> WHY.

   ANSWER is `open` where the way is there, `blocked` where it is not, `absent` where this kernel or
   machine has nothing of the kind. Nothing is changed where a way is open: calls are made with
   arguments that fail once they are permitted, files are opened and not written to.

   Static, needs no file of the image. The words are canaries of the host: what must not be found
   from inside. KEY=VALUE: file abstract port shm env disk pid, and ns/pid ns/ipc ... as the
   readlink of the host's /proc/self/ns. Those that are left out are not tried.

   For the way of the arguments through a call that is permitted, see the comment at each.  */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif

enum { OPEN = 0, ABSENT = 254, CLOSED = 255 }; /* else an errno: blocked */

static char **words;
static int inherited;

static const char *word(const char *key) {
    size_t length = strlen(key);
    for (char **each = words; *each; each++)
        if (!strncmp(*each, key, length) && (*each)[length] == '=')
            return *each + length + 1;
    return NULL;
}

/* A call that is not permitted says one of these; all others come after the permission. */
static int gate(long result) {
    if (result >= 0)
        return OPEN;
    return errno == EPERM || errno == EACCES || errno == ENOSYS ? errno : OPEN;
}

#define CALL(...) gate(syscall(__VA_ARGS__))

static int opens(const char *path, int flags) {
    int fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ABSENT : errno;
    close(fd);
    return OPEN;
}

static int writable(const char *path) {
    return opens(path, O_WRONLY);
}

/* A file that says something, or a directory with something in it. */
static int readable(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ABSENT : errno;
    DIR *directory = fdopendir(fd);
    if (directory) {
        int count = 0;
        while (readdir(directory))
            count++;
        return count > 2 ? OPEN : CLOSED;
    }
    return read(fd, &byte, 1) == 1 ? OPEN : CLOSED;
}

/* ---- the host's files, processes and namespaces */

static int found_canary(const char *prefix) {
    char path[4096];
    const char *file = word("file");
    if (!file)
        return ABSENT;
    snprintf(path, sizeof path, "%s%s", prefix, file);
    return opens(path, O_RDONLY) == OPEN ? OPEN : CLOSED;
}

static int try_host_file(void) { return found_canary(""); }
static int try_host_file_by_cwd(void) { return found_canary("/proc/self/cwd/../../../../../../../.."); }
static int try_host_file_by_dots(void) { return found_canary("../../../../../../../../../../../.."); }

/* Through the root, the working directory or a descriptor of every process there is. */
static int by_processes(const char *what) {
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    char prefix[600];
    if (!proc)
        return ABSENT;
    while ((entry = readdir(proc)))
        if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') {
            snprintf(prefix, sizeof prefix, "/proc/%s/%s", entry->d_name, what);
            if (found_canary(prefix) == OPEN)
                return OPEN;
        }
    return CLOSED;
}

static int try_host_file_by_root(void) { return by_processes("root"); }
static int try_host_file_by_cwds(void) { return by_processes("cwd/../../../../../../../.."); }

static int try_host_file_by_descriptors(void) {
    char what[64];
    for (int fd = 0; fd < 64; fd++) {
        snprintf(what, sizeof what, "fd/%d/../../../../../../../..", fd);
        if (by_processes(what) == OPEN)
            return OPEN;
    }
    return CLOSED;
}

/* chroot(2) NOTES: a directory that is open is not within a root that is made later. */
static int try_host_file_by_chroot(void) {
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mkdir("/probe-root", 0700);
    int problem = chroot("/probe-root") ? errno : 0;
    if (!problem && fchdir(fd) == 0)
        for (int depth = 0; depth < 64; depth++)
            if (chdir(".."))
                break;
    if (!problem && chroot("."))
        problem = errno;
    int found = problem ? problem : found_canary("");
    unlinkat(fd, "probe-root", AT_REMOVEDIR);
    return found;
}

static int same_namespace(const char *key) {
    char path[64], target[64];
    const char *host = word(key);
    if (!host)
        return ABSENT;
    snprintf(path, sizeof path, "/proc/self/%s", key);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0)
        return errno;
    target[length] = 0;
    return strcmp(target, host) ? CLOSED : OPEN;
}

static int try_namespace_mnt(void) { return same_namespace("ns/mnt"); }
static int try_namespace_pid(void) { return same_namespace("ns/pid"); }
static int try_namespace_ipc(void) { return same_namespace("ns/ipc"); }
static int try_namespace_uts(void) { return same_namespace("ns/uts"); }
static int try_namespace_net(void) { return same_namespace("ns/net"); }

static int try_mount_propagation(void) {
    char line[8192];
    FILE *file = fopen("/proc/self/mountinfo", "r");
    if (!file)
        return errno;
    while (fgets(line, sizeof line, file))
        if (strstr(line, " shared:"))
            return OPEN;
    return CLOSED;
}

static int try_host_environment(void) {
    extern char **environ;
    const char *canary = word("env");
    if (!canary)
        return ABSENT;
    for (char **each = environ; *each; each++)
        if (strstr(*each, canary))
            return OPEN;
    return CLOSED;
}

static int try_host_environment_by_proc(void) {
    static char data[1 << 20];
    const char *canary = word("env");
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    char path[600];
    if (!canary || !proc)
        return ABSENT;
    while ((entry = readdir(proc))) {
        snprintf(path, sizeof path, "/proc/%s/environ", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t length = read(fd, data, sizeof data);
        close(fd);
        if (length > 0 && memmem(data, length, canary, strlen(canary)))
            return OPEN;
    }
    return CLOSED;
}

static int try_inherited_descriptor(void) { return inherited ? OPEN : CLOSED; }

static pid_t host_pid(void) { return word("pid") ? atoi(word("pid")) : 0; }
static int failed(long result) { return result >= 0 ? OPEN : errno; }

static int try_signal_host_process(void) { return failed(kill(host_pid(), 0)); }
static int try_trace_host_process(void) { return failed(ptrace(PTRACE_SEIZE, host_pid(), 0, 0)); }
static int try_pidfd_of_host_process(void) { return failed(syscall(SYS_pidfd_open, host_pid(), 0)); }

static int try_read_host_process(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    long result = syscall(SYS_process_vm_readv, host_pid(), &here, 1, &there, 1, 0);
    return result >= 0 || errno == EFAULT ? OPEN : errno;
}

/* A program of the host that runs in here and could be written to, now or after its end. */
static int try_executable_of_host(void) {
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    struct stat root, status;
    char path[600];
    if (!proc || stat("/", &root))
        return ABSENT;
    while ((entry = readdir(proc))) {
        snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || stat(path, &status))
            continue;
        int own = status.st_dev == root.st_dev, fd = open(path, O_RDONLY | O_CLOEXEC);
        int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
        if (fd >= 0)
            close(fd);
        if (!own && fd >= 0 && (seals < 0 || !(seals & F_SEAL_WRITE)))
            return OPEN;
    }
    return CLOSED;
}

static int try_host_shared_memory(void) {
    return word("shm") ? failed(shmget(atoi(word("shm")), 0, 0)) : ABSENT;
}

static int try_host_abstract_socket(void) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const char *text = word("abstract");
    if (!text)
        return ABSENT;
    strncpy(name.sun_path + 1, text, sizeof name.sun_path - 2);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(text);
    return failed(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, length));
}

static int try_host_loopback(void) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (!word("port"))
        return ABSENT;
    name.sin_port = htons(atoi(word("port")));
    return failed(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&name, sizeof name));
}

/* ---- /proc, /sys and control groups */

static int try_proc_kcore(void) { return readable("/proc/kcore"); }
static int try_proc_keys(void) { return readable("/proc/keys"); }
static int try_proc_timer_list(void) { return readable("/proc/timer_list"); }
static int try_proc_sched_debug(void) { return readable("/proc/sched_debug"); }
static int try_proc_latency_stats(void) { return readable("/proc/latency_stats"); }
static int try_proc_interrupts(void) { return readable("/proc/interrupts"); }
static int try_proc_acpi(void) { return readable("/proc/acpi"); }
static int try_proc_asound(void) { return readable("/proc/asound"); }
static int try_proc_scsi(void) { return readable("/proc/scsi"); }
static int try_sys_firmware(void) { return readable("/sys/firmware"); }
static int try_sys_powercap(void) { return readable("/sys/devices/virtual/powercap"); }
static int try_proc_sysrq(void) { return writable("/proc/sysrq-trigger"); }
static int try_proc_core_pattern(void) { return writable("/proc/sys/kernel/core_pattern"); }
static int try_proc_modprobe(void) { return writable("/proc/sys/kernel/modprobe"); }
static int try_proc_panic(void) { return writable("/proc/sys/kernel/panic"); }
static int try_proc_domainname(void) { return writable("/proc/sys/kernel/domainname"); }
static int try_proc_overcommit(void) { return writable("/proc/sys/vm/overcommit_memory"); }
static int try_proc_ip_forward(void) { return writable("/proc/sys/net/ipv4/ip_forward"); }
static int try_proc_irq(void) { return writable("/proc/irq/default_smp_affinity"); }
static int try_proc_mtrr(void) { return writable("/proc/mtrr"); }
static int try_sys_writable(void) {
    static const char *const paths[] = {
        "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/ksm/run",
        "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling",
    };
    int found = ABSENT;
    for (unsigned each = 0; each < sizeof paths / sizeof *paths; each++) {
        int answer = writable(paths[each]);
        if (answer == OPEN)
            return OPEN;
        if (answer != ABSENT)
            found = answer;
    }
    return found;
}

static int try_oom_score(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    return fd < 0 ? errno : failed(write(fd, "-1000", 5));
}

static int try_remount_proc_sys(void) {
    return CALL(SYS_mount, NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL);
}

/* In every hierarchy, and at its top. */
static int in_cgroups(int (*try)(const char *directory)) {
    DIR *top = opendir("/sys/fs/cgroup");
    struct dirent *entry;
    char path[600];
    int found = top ? try("/sys/fs/cgroup") : ABSENT;
    while (top && found != OPEN && (entry = readdir(top)))
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "/sys/fs/cgroup/%s", entry->d_name);
            int answer = try(path);
            if (answer == OPEN || found == ABSENT)
                found = answer;
        }
    return found;
}

static int release_agent_in(const char *directory) {
    char path[700];
    snprintf(path, sizeof path, "%s/release_agent", directory);
    int answer = writable(path);
    return answer == ENOTDIR ? ABSENT : answer;
}

static int group_in(const char *directory) {
    char path[700];
    snprintf(path, sizeof path, "%s/probe", directory);
    if (mkdir(path, 0700))
        return errno == ENOENT || errno == ENOTDIR ? ABSENT : errno;
    struct statfs file_system; /* linux/magic.h: in the directory of v1's hierarchies it is none */
    int is_group = !statfs(path, &file_system) &&
                   (file_system.f_type == 0x27e0eb || file_system.f_type == 0x63677270);
    rmdir(path);
    return is_group ? OPEN : CLOSED;
}

static int try_cgroup_release_agent(void) { return in_cgroups(release_agent_in); }
static int try_cgroup_make(void) { return in_cgroups(group_in); }

/* ---- devices */

static const char *const places[] = {"/", "/tmp", "/dev", "/dev/shm", "/var/tmp", "/run", "/etc"};

/* Where no node can be made, a plain file may stand for one: what it says, nothing can do. */
static int is_plain(int fd) {
    int out = memfd_create("probe", MFD_CLOEXEC);
    int plain = copy_file_range(fd, NULL, out, NULL, 1, 0) >= 0 || errno != EINVAL;
    close(out);
    return plain;
}

static int node_opens(mode_t kind, unsigned major, unsigned minor) {
    char path[64];
    int found = ABSENT;
    for (unsigned each = 0; each < sizeof places / sizeof *places; each++) {
        snprintf(path, sizeof path, "%s/probe-node", places[each]);
        if (mknod(path, kind | 0600, makedev(major, minor))) {
            if (found == ABSENT)
                found = errno == ENOENT ? ABSENT : errno;
            continue;
        }
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        int problem = fd < 0 ? errno : is_plain(fd) ? EPERM : OPEN;
        unlink(path);
        if (problem == OPEN)
            return OPEN;
        found = problem == ENXIO || problem == ENODEV ? ABSENT : problem;
    }
    return found;
}

static int try_node_disk(void) {
    unsigned major, minor;
    if (!word("disk") || sscanf(word("disk"), "%u:%u", &major, &minor) != 2)
        return ABSENT;
    return node_opens(S_IFBLK, major, minor);
}

static int try_node_mem(void) { return node_opens(S_IFCHR, 1, 1); }
static int try_node_kmsg(void) { return node_opens(S_IFCHR, 1, 11); }
static int try_node_fuse(void) { return node_opens(S_IFCHR, 10, 229); }
static int try_node_tun(void) { return node_opens(S_IFCHR, 10, 200); }
static int try_node_loop(void) { return node_opens(S_IFCHR, 10, 237); }
static int try_node_tty(void) { return node_opens(S_IFCHR, 4, 0); }

static int try_node_of_image(void) {
    int fd = open("/node-of-image", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return fd < 0 ? errno == ENOENT ? ABSENT : errno : is_plain(fd) ? EPERM : OPEN;
}


static int try_block_device_in_dev(void) {
    DIR *dev = opendir("/dev");
    struct dirent *entry;
    struct stat status;
    while (dev && (entry = readdir(dev)))
        if (!fstatat(dirfd(dev), entry->d_name, &status, 0) && S_ISBLK(status.st_mode))
            return OPEN;
    return CLOSED;
}

static int try_dev_kmsg(void) { return opens("/dev/kmsg", O_RDONLY); }
static int try_dev_mem(void) { return opens("/dev/mem", O_RDONLY); }
static int try_dev_fuse(void) { return opens("/dev/fuse", O_RDONLY); }

static int try_controlling_terminal(void) {
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    return fd < 0 ? errno : OPEN;
}

/* tty_ioctl(4): put a character into the input of a terminal that the caller did not open. */
static int try_terminal_input(void) {
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    return ioctl(fd < 0 ? 0 : fd, TIOCSTI, "") ? errno : OPEN;
}

static int try_terminal_selection(void) {
    char request = 2; /* TIOCL_SETSEL, without the selection */
    return ioctl(0, TIOCLINUX, &request) && errno != EFAULT ? errno : OPEN;
}

/* ---- mounts, roots and namespaces */

static int mount_on(const char *kind) {
    char directory[] = "/probe-XXXXXX";
    if (!mkdtemp(directory))
        return errno;
    int problem = mount(kind, directory, kind, 0, NULL) ? errno : OPEN;
    if (problem == OPEN)
        umount2(directory, MNT_DETACH);
    rmdir(directory);
    return problem;
}

static int try_mount_tmpfs(void) { return mount_on("tmpfs"); }
static int try_mount_proc(void) { return mount_on("proc"); }
static int try_mount_sysfs(void) { return mount_on("sysfs"); }
static int try_mount_cgroup(void) { return mount_on("cgroup2"); }
static int try_mount_devpts(void) { return mount_on("devpts"); }

static int try_mount_bind(void) {
    int problem = mount("/", "/probe-none", NULL, MS_BIND, NULL) ? errno : OPEN;
    return problem == ENOENT ? OPEN : problem;
}

/* Of what is no mount point: EINVAL when permitted. */
static int try_umount(void) { return CALL(SYS_umount2, "/bin", 0); }
static int try_remount_root(void) { return CALL(SYS_mount, NULL, "/", NULL, MS_PRIVATE, NULL); }
static int try_fsopen(void) { return CALL(SYS_fsopen, "tmpfs", 1); }
static int try_fspick(void) { return CALL(SYS_fspick, AT_FDCWD, "/", 0); }
static int try_fsmount(void) { return CALL(SYS_fsmount, -1, 0, 0); }
static int try_fsconfig(void) { return CALL(SYS_fsconfig, -1, 0, NULL, NULL, 0); }
static int try_open_tree_clone(void) { return CALL(SYS_open_tree, AT_FDCWD, "/", 1); }
static int try_move_mount(void) { return CALL(SYS_move_mount, -1, "", -1, "", 0x44); }
static int try_mount_setattr(void) { return CALL(SYS_mount_setattr, AT_FDCWD, "/", 0, NULL, 0); }
static int try_pivot_root(void) { return CALL(SYS_pivot_root, "/", "/"); }
static int try_unshare_mnt(void) { return CALL(SYS_unshare, CLONE_NEWNS); }
static int try_unshare_user(void) { return CALL(SYS_unshare, CLONE_NEWUSER); }
static int try_unshare_pid(void) { return CALL(SYS_unshare, CLONE_NEWPID); }
static int try_unshare_net(void) { return CALL(SYS_unshare, CLONE_NEWNET); }
static int try_unshare_ipc(void) { return CALL(SYS_unshare, CLONE_NEWIPC); }
static int try_unshare_uts(void) { return CALL(SYS_unshare, CLONE_NEWUTS); }
static int try_unshare_cgroup(void) { return CALL(SYS_unshare, CLONE_NEWCGROUP); }

static int clone_with(unsigned long flags) {
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return gate(pid);
}

static int try_clone_user(void) { return clone_with(CLONE_NEWUSER); }
static int try_clone_mnt(void) { return clone_with(CLONE_NEWNS); }

static int try_clone3_user(void) {
    uint64_t args[11] = {CLONE_NEWUSER, [4] = SIGCHLD};
    long pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == 0)
        _exit(0);
    return gate(pid);
}

static int try_setns_mnt(void) {
    int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? errno : CALL(SYS_setns, fd, CLONE_NEWNS);
}

/* ---- the kernel */

static int try_kernel_log(void) { return CALL(SYS_syslog, 10, NULL, 0); }
static int try_kexec_load(void) { return CALL(SYS_kexec_load, 0, 0, NULL, 0xFF00); }
#ifdef SYS_kexec_file_load
static int try_kexec_file(void) { return CALL(SYS_kexec_file_load, -1, -1, 0, NULL, 0xFF00); }
#endif
static int try_module_init(void) { return CALL(SYS_init_module, NULL, 0, ""); }
static int try_module_finit(void) { return CALL(SYS_finit_module, -1, "", 0); }
static int try_module_delete(void) { return CALL(SYS_delete_module, "probe-none", O_NONBLOCK); }
static int try_reboot(void) { return CALL(SYS_reboot, 0, 0, 0, NULL); } /* no magic: EINVAL */
static int try_swapon(void) { return CALL(SYS_swapon, "/probe-none", 0); }
static int try_swapoff(void) { return CALL(SYS_swapoff, "/probe-none"); }
static int try_acct(void) { return CALL(SYS_acct, "/probe-none/x"); }
static int try_set_time(void) { return CALL(SYS_settimeofday, NULL, NULL); }

static int try_set_clock(void) {
    struct timespec never = {-1, -1};
    return CALL(SYS_clock_settime, CLOCK_REALTIME, &never);
}

static int try_adjust_clock(void) {
    struct timex wanted = {.modes = ADJ_TICK, .tick = 1}; /* out of range */
    return CALL(SYS_adjtimex, &wanted);
}

static int try_set_hostname(void) {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return CALL(SYS_sethostname, name, strlen(name));
}

static int try_set_domainname(void) { return CALL(SYS_setdomainname, NULL, -1); }
static int try_quota(void) { return CALL(SYS_quotactl, 0x800005 << 8, "/probe-none", 0, NULL); }
static int try_quota_fd(void) { return CALL(SYS_quotactl_fd, -1, 0x800005 << 8, 0, NULL); }
static int try_fanotify(void) { return CALL(SYS_fanotify_init, 0, 0); }

static int try_open_by_handle(void) {
    struct { unsigned bytes; int type; char data[8]; } handle = {8, 1, ""};
    return CALL(SYS_open_by_handle_at, AT_FDCWD, &handle, O_RDONLY);
}

static int try_key_add(void) { return CALL(SYS_add_key, "user", "probe", "x", 1, -1); }
static int try_key_request(void) { return CALL(SYS_request_key, "user", "probe-none", NULL, 0); }
static int try_key_control(void) { return CALL(SYS_keyctl, 0, -3, 0); }
static int try_key_of_user(void) { return CALL(SYS_keyctl, 0, -4, 0); }
static int try_bpf(void) { return CALL(SYS_bpf, 9999, NULL, 0); }
static int try_perf_event(void) { return CALL(SYS_perf_event_open, NULL, 0, -1, -1, 0); }
static int try_userfault(void) { return CALL(SYS_userfaultfd, O_CLOEXEC); }
static int try_io_uring(void) { return CALL(SYS_io_uring_setup, 1, NULL); }
static int try_io_uring_use(void) { return CALL(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0); }
static int try_compare_processes(void) { return CALL(SYS_kcmp, getpid(), getpid(), 0, 0, 0); }
static int try_steal_descriptor(void) {
    return CALL(SYS_pidfd_getfd, syscall(SYS_pidfd_open, getpid(), 0), 0, 0);
}
static int try_move_memory(void) { return CALL(SYS_mbind, NULL, 0, 0, NULL, 0, 0); }
static int try_move_pages(void) { return CALL(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0); }
static int try_no_randomizing(void) { return CALL(SYS_personality, ADDR_NO_RANDOMIZE); }
static int try_read_implies_exec(void) { return CALL(SYS_personality, READ_IMPLIES_EXEC); }
static int try_hang_up(void) { setsid(); return CALL(SYS_vhangup); }

#ifdef __x86_64__
static int try_raw_io(void) { return CALL(SYS_iopl, 3); }
static int try_raw_ports(void) { return CALL(SYS_ioperm, 0x80, 1, 1); }
static int try_x32_call(void) { return failed(syscall(0x40000000 | SYS_getpid)); }
static int try_x32_mount(void) { return failed(syscall(0x40000000 | SYS_unshare, 0)); }

static int compat(long number, long one, long two, long three) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(one), "c"(two), "d"(three)
                     : "memory", "r8", "r9", "r10", "r11");
    errno = (int)-result;
    return gate(result < 0 ? -1 : result);
}

/* asm/unistd_32.h: umount2 52, unshare 310, keyctl 288, socket 359, clone 120 */
static int try_compat_umount(void) { return compat(52, 0, 0, 0); }
static int try_compat_unshare(void) { return compat(310, CLONE_NEWUSER, 0, 0); }
static int try_compat_keyctl(void) { return compat(288, 0, -3, 0); }
static int try_compat_socket_alg(void) { return compat(359, AF_ALG, SOCK_SEQPACKET, 0); }

static int try_compat_socketcall(void) {
    unsigned *arguments = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    arguments[0] = AF_VSOCK, arguments[1] = SOCK_STREAM, arguments[2] = 0;
    return compat(102, 1, (long)arguments, 0);
}
#endif

/* ---- sockets and the network */

static int try_socket_alg(void) { return failed(socket(AF_ALG, SOCK_SEQPACKET, 0)); }
static int try_socket_vsock(void) { return failed(socket(AF_VSOCK, SOCK_STREAM, 0)); }
static int try_socket_packet(void) { return failed(socket(AF_PACKET, SOCK_RAW, 0)); }
static int try_socket_raw(void) { return failed(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }

static int try_network_admin(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCGIFFLAGS, &request))
        return errno;
    return ioctl(fd, SIOCSIFFLAGS, &request) ? errno : OPEN; /* those it has */
}

static int try_socket_mark(void) {
    int mark = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);
    return failed(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark));
}

/* ---- rights and limits */

static int try_more_capabilities(void) {
    static const unsigned long long docker = 0xa80425fb;
    char line[256];
    unsigned long long bounds = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "CapBnd: %llx", &bounds);
    return bounds & ~docker ? OPEN : CLOSED;
}

static int try_ambient_capabilities(void) {
    char line[256];
    unsigned long long found = 0, each;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "CapAmb: %llx", &each) == 1 || sscanf(line, "CapInh: %llx", &each) == 1)
            found |= each;
    return found ? OPEN : CLOSED;
}

static int try_regain_capability(void) {
    unsigned header[2] = {0x20080522, 0}, data[6] = {1u << 21, 1u << 21}; /* CAP_SYS_ADMIN */
    return failed(syscall(SYS_capset, header, data));
}

static int try_trusted_attribute(void) {
    int problem = setxattr("/", "trusted.probe", "x", 1, 0) ? errno : OPEN;
    if (problem == OPEN)
        removexattr("/", "trusted.probe");
    return problem;
}

static int try_immutable_file(void) {
    int flags = FS_IMMUTABLE_FL, none = 0;
    int fd = open("/probe-file", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    int problem = fd < 0 ? errno : ioctl(fd, FS_IOC_SETFLAGS, &flags) ? errno : OPEN;
    if (problem == OPEN)
        ioctl(fd, FS_IOC_SETFLAGS, &none);
    unlink("/probe-file");
    return problem;
}

static int try_raise_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max += limit.rlim_max == RLIM_INFINITY ? 0 : 1;
    return failed(setrlimit(RLIMIT_NOFILE, &limit));
}

static int try_raise_priority(void) { return failed(setpriority(PRIO_PROCESS, 0, -5)); }

static int try_realtime(void) {
    struct sched_param wanted = {.sched_priority = 1};
    return failed(sched_setscheduler(0, SCHED_FIFO, &wanted));
}

/* ---- */

static const struct { const char *name; int (*try)(void); } probes[] = {
#define P(name) {#name, try_##name}
    P(host_file), P(host_file_by_cwd), P(host_file_by_dots), P(host_file_by_root),
    P(host_file_by_cwds), P(host_file_by_descriptors), P(host_file_by_chroot), P(namespace_mnt),
    P(namespace_pid), P(namespace_ipc), P(namespace_uts), P(namespace_net), P(mount_propagation),
    P(host_environment), P(host_environment_by_proc), P(inherited_descriptor),
    P(signal_host_process), P(trace_host_process), P(pidfd_of_host_process), P(read_host_process),
    P(executable_of_host), P(host_shared_memory), P(host_abstract_socket), P(host_loopback),
    P(proc_kcore), P(proc_keys), P(proc_timer_list), P(proc_sched_debug), P(proc_latency_stats),
    P(proc_interrupts), P(proc_acpi), P(proc_asound), P(proc_scsi), P(sys_firmware),
    P(sys_powercap), P(proc_sysrq), P(proc_core_pattern), P(proc_modprobe), P(proc_panic),
    P(proc_domainname), P(proc_overcommit), P(proc_ip_forward), P(proc_irq), P(proc_mtrr),
    P(sys_writable), P(oom_score), P(remount_proc_sys), P(cgroup_release_agent), P(cgroup_make),
    P(node_disk), P(node_mem), P(node_kmsg), P(node_fuse), P(node_tun), P(node_loop), P(node_tty),
    P(node_of_image), P(block_device_in_dev), P(dev_kmsg), P(dev_mem), P(dev_fuse),
    P(controlling_terminal), P(terminal_input), P(terminal_selection), P(mount_tmpfs),
    P(mount_proc), P(mount_sysfs), P(mount_cgroup), P(mount_devpts), P(mount_bind), P(umount),
    P(remount_root), P(fsopen), P(fspick), P(fsmount), P(fsconfig), P(open_tree_clone),
    P(move_mount), P(mount_setattr), P(pivot_root), P(unshare_mnt), P(unshare_user), P(unshare_pid),
    P(unshare_net), P(unshare_ipc), P(unshare_uts), P(unshare_cgroup), P(clone_user), P(clone_mnt),
    P(clone3_user), P(setns_mnt), P(kernel_log), P(kexec_load),
#ifdef SYS_kexec_file_load
    P(kexec_file),
#endif
    P(module_init), P(module_finit), P(module_delete), P(reboot), P(swapon), P(swapoff), P(acct),
    P(set_time), P(set_clock), P(adjust_clock), P(set_hostname), P(set_domainname), P(quota),
    P(quota_fd), P(fanotify), P(open_by_handle), P(key_add), P(key_request), P(key_control),
    P(key_of_user), P(bpf), P(perf_event), P(userfault), P(io_uring), P(io_uring_use),
    P(compare_processes), P(steal_descriptor), P(move_memory), P(move_pages), P(no_randomizing),
    P(read_implies_exec), P(hang_up),
#ifdef __x86_64__
    P(raw_io), P(raw_ports), P(x32_call), P(x32_mount), P(compat_umount), P(compat_unshare),
    P(compat_keyctl), P(compat_socket_alg), P(compat_socketcall),
#endif
    P(socket_alg), P(socket_vsock), P(socket_packet), P(socket_raw), P(network_admin),
    P(socket_mark), P(more_capabilities), P(ambient_capabilities), P(regain_capability),
    P(trusted_attribute), P(immutable_file), P(raise_limit), P(raise_priority), P(realtime),
};

int main(int argc, char **argv) {
    (void)argc;
    words = argv + 1;
    for (int fd = 3; fd < 1024; fd++)
        inherited += fcntl(fd, F_GETFD) >= 0;
    for (unsigned each = 0; each < sizeof probes / sizeof *probes; each++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(10);
            _exit(probes[each].try());
        }
        int status = 0;
        waitpid(child, &status, 0);
        int code = WEXITSTATUS(status);
        const char *name = probes[each].name;
        if (WIFSIGNALED(status))
            printf("%s\tblocked\tsignal %d\n", name, WTERMSIG(status));
        else if (code == OPEN || code == ABSENT)
            printf("%s\t%s\t\n", name, code == OPEN ? "open" : "absent");
        else
            printf("%s\tblocked\t%s\n", name, code == CLOSED ? "" : strerrorname_np(code));
    }
    return 0;
}
