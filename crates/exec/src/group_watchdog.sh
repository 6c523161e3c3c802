groups=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group" ;;
    -)
      left=
      for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
      groups=$left
      ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
