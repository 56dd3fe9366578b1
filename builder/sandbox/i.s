.intel_syntax noprefix
.globl _start
_start:
mov edi, 15
mov rsi, [rsp+8]
mov eax, 157
syscall
sub rsp, 16
mov QWORD PTR [rsp], -1
reap:
mov edi, -1
lea rsi, [rsp+8]
mov edx, 1
xor r10d, r10d
mov eax, 61
syscall
cmp eax, 2
je done
test eax, eax
jg reap
mov rdi, rsp
xor esi, esi
xor edx, edx
mov r10d, 8
mov eax, 128
syscall
cmp eax, 17
je reap
test eax, eax
jle reap
mov esi, eax
mov edi, 2
mov eax, 62
syscall
jmp reap
done:
mov edi, 3
lea rsi, [rsp+8]
mov edx, 4
mov eax, 1
syscall
xor edi, edi
mov eax, 231
syscall
