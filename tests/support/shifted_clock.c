/* For LD_PRELOAD: the system clock is CLOCK_SHIFT seconds ahead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef int (*reader)(clockid_t, struct timespec *);

int clock_gettime(clockid_t clock, struct timespec *now) {
  static reader original;
  if (!original) original = (reader)dlsym(RTLD_NEXT, "clock_gettime");
  int code = original(clock, now);
  if (!code && clock == CLOCK_REALTIME) now->tv_sec += atol(getenv("CLOCK_SHIFT"));
  return code;
}

time_t time(time_t *seconds) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (seconds) *seconds = now.tv_sec;
  return now.tv_sec;
}
