/* The smallest program that execs another one: what the shim's pass-through is measured against. */
#include <unistd.h>

int main(int argc, char **argv) {
    (void)argc;
    execv(REAL, argv);
    return 127;
}
