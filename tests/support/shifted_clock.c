/* For LD_PRELOAD: the system clock is CLOCK_SHIFT seconds ahead. Not for C++: it waits until a time
   that the kernel compares with its own clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*reader)(clockid_t, struct timespec *);

int clock_gettime(clockid_t clock, struct timespec *now) {
  static reader original;
  if (!original) original = (reader)dlsym(RTLD_NEXT, "clock_gettime");
  int code = original(clock, now);
  Dl_info caller;
  if (code || clock != CLOCK_REALTIME || !dladdr(__builtin_return_address(0), &caller)) return code;
  if (!strstr(caller.dli_fname, "stdc++") && !strstr(caller.dli_fname, "fastrtps"))
    now->tv_sec += atol(getenv("CLOCK_SHIFT"));
  return code;
}
