/* Says who it is: set-user-id root, it tells whether privileges can be gained. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %d\n", geteuid());
    return 0;
}
