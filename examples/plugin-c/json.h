/* Reads `{"values": {"name": "text", ...}}`, the config of a `fill` step. */

#ifndef JSON_H
#define JSON_H

#include <stddef.h>

struct value {
    char *name, *text;
};

/* Names and their texts. */
struct values {
    struct value *all;
    size_t count;
};

/* Ends the step with a message. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The memory, or the end of the step. */
void *must(void *memory);

/* The values in a config. What is not of that form ends the step. */
struct values values_in(const char *config);

/* Adds a value unless the config has one of that name. */
void add_default(struct values *values, const char *name, const char *text);

/* The text of a name, or NULL. */
const char *value_of(const struct values *values, const char *name, size_t length);

#endif
